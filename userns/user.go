package userns

import (
	"context"
	"io/fs"
	"strconv"
	"strings"
)

// User is an entry of passwd(5), or what stands in for one.
type User struct {
	Name  string `json:"name"`
	UID   int    `json:"uid"`
	GID   int    `json:"gid"` // the primary group
	Gecos string `json:"gecos,omitempty"`
	Home  string `json:"home"`
	Shell string `json:"shell,omitempty"` // "" for the system's default, /bin/sh
	Found string `json:"found"`           // passwd, getent or made up
}

// LookupUser finds the user in /etc/passwd, then by getent (network users; at
// most two seconds), else makes an entry up from the environment: a container
// also starts for a uid that no name service knows. gid is only used for an
// entry that is made up.
func (s System) LookupUser(ctx context.Context, uid, gid int) User {
	if b, err := fs.ReadFile(s.Root, "etc/passwd"); err == nil {
		for line := range strings.SplitSeq(string(b), "\n") {
			if u, ok := parseUser(line, uid); ok {
				u.Found = "passwd"
				return u
			}
		}
	}
	if s.Getent != nil {
		if line, err := s.Getent(ctx, uid); err == nil {
			if u, ok := parseUser(line, uid); ok {
				u.Found = "getent"
				return u
			}
		}
	}
	u := User{Name: s.Env("USER"), UID: uid, GID: gid, Home: s.Env("HOME"), Shell: s.Env("SHELL"), Found: "made up"}
	if u.Name == "" {
		u.Name = s.Env("LOGNAME")
	}
	if u.Name == "" || strings.ContainsAny(u.Name, ":\n") {
		u.Name = strconv.Itoa(uid)
	}
	if !strings.HasPrefix(u.Home, "/") || strings.ContainsAny(u.Home, ":\n") {
		u.Home = "/"
	}
	if !strings.HasPrefix(u.Shell, "/") || strings.ContainsAny(u.Shell, ":\n") {
		u.Shell = ""
	}
	return u
}

// parseUser accepts the line of this uid only.
func parseUser(line string, uid int) (User, bool) {
	f := strings.Split(line, ":")
	if len(f) != 7 || f[0] == "" || f[2] != strconv.Itoa(uid) {
		return User{}, false
	}
	gid, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil {
		return User{}, false
	}
	u := User{Name: f[0], UID: uid, GID: int(gid), Gecos: f[4], Home: f[5], Shell: f[6]}
	if u.Home == "" {
		u.Home = "/"
	}
	return u, true
}
