package native

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/oci"
)

// maxTemplate bounds the user databases and resolver settings that are read.
const maxTemplate = 4 << 20

// presentIdentity puts the caller into /etc/passwd and /etc/group, with the
// image's own files as templates.
func (p *planner) presentIdentity() error {
	if p.uid == 0 && p.plan.Root.Write == oci.WriteDirect {
		return nil // root at work on an image of its own: these files are part of it
	}
	user := p.h.User
	user.Home = p.home.target
	groups := p.h.Groups
	if p.o.Fakeroot {
		user.Name, user.Gecos = "root", "root"
		groups = []Group{{GID: 0, Name: "root"}} // the host's ids mean others here
	}
	if user.Name == "" {
		user.Name = "user" + strconv.Itoa(p.uid)
	}
	for _, f := range []struct {
		name string
		make func([]byte) []byte
	}{
		{"/etc/passwd", func(t []byte) []byte { return passwd(t, user, p.uid, p.gid) }},
		{"/etc/group", func(t []byte) []byte { return group(t, user.Name, p.gid, groups) }},
	} {
		template, err := p.early.file(f.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.warn("%s in the container: %v, not updating", f.name, err)
			continue
		}
		if err != nil {
			p.verbose("%s doesn't exist in container, making one", f.name)
		}
		p.generate(f.name, unix.S_IFREG|0o644, f.make(template))
	}
	return nil
}

// passwd returns template with a line for user: in place of the line with its
// uid, whose shell is kept as the host's may not be in the image, or appended.
func passwd(template []byte, user User, uid, gid int) []byte {
	line := func(shell string) string {
		return fmt.Sprintf("%s:x:%d:%d:%s:%s:%s\n", field(user.Name), uid, gid, field(user.Gecos), field(user.Home), field(shell))
	}
	var out bytes.Buffer
	found := false
	for l := range bytes.Lines(template) {
		fields := strings.Split(strings.TrimSuffix(string(l), "\n"), ":")
		if !found && len(fields) == 7 && fields[2] == strconv.Itoa(uid) {
			found = true
			out.WriteString(line(fields[6]))
			continue
		}
		out.Write(l)
	}
	endLine(&out)
	if !found {
		out.WriteString(line(user.Shell))
	}
	return out.Bytes()
}

// group returns template with the caller as a member of each of groups whose
// name is known. A name that the image has too appears twice, as with
// SingularityCE: the first line counts for the id, both for the membership,
// which the primary group needs no line for.
func group(template []byte, user string, primary int, groups []Group) []byte {
	var out bytes.Buffer
	out.Write(template)
	endLine(&out)
	seen := map[int]bool{}
	for _, g := range groups {
		if g.Name == "" || seen[g.GID] {
			continue
		}
		seen[g.GID] = true
		if g.GID == primary && hasGroup(template, g) {
			continue
		}
		fmt.Fprintf(&out, "%s:x:%d:%s\n", field(g.Name), g.GID, field(user))
	}
	return out.Bytes()
}

func hasGroup(template []byte, g Group) bool {
	for l := range bytes.Lines(template) {
		fields := strings.Split(string(l), ":")
		if len(fields) == 4 && fields[0] == g.Name && fields[2] == strconv.Itoa(g.GID) {
			return true
		}
	}
	return false
}

// field takes out of s what would end a field or a line of a user database.
func field(s string) string {
	if !strings.ContainsAny(s, ":\n\r\x00") {
		return s
	}
	return strings.NewReplacer(":", "", "\n", "", "\r", "", "\x00", "").Replace(s)
}

func endLine(b *bytes.Buffer) {
	if n := b.Len(); n > 0 && b.Bytes()[n-1] != '\n' {
		b.WriteByte('\n')
	}
}

// presentResolvConf gives the container the host's name resolution. A file is
// copied. A link into a directory of a daemon below /run is kept as a link and
// that directory bound, so that the container follows a change of network.
func (p *planner) presentResolvConf() error {
	const name = "/etc/resolv.conf"
	if p.without("bind-paths", name) {
		return nil
	}
	if p.o.DNS != "" {
		content, err := resolvConf(p.o.DNS)
		if err != nil {
			return err
		}
		p.generate(name, unix.S_IFREG|0o644, content)
		return nil
	}
	real, st, err := p.hostType(name)
	if err != nil || !st.IsRegular() {
		p.verbose("%s on the host: %v", name, err)
		return nil
	}
	if dir := path.Dir(real); real != name && within(dir, "/run") && dir != "/run" && p.generate(name, unix.S_IFLNK|0o777, []byte(real)) {
		p.bindDefault(dir, dir, "files", "")
		return nil
	}
	content, err := p.h.Files.ReadFile(real, maxTemplate)
	if err != nil {
		p.warn("could not read %s: %v", name, err)
		return nil
	}
	p.generate(name, unix.S_IFREG|0o644, content)
	return nil
}

// resolvConf makes the file for --dns.
func resolvConf(list string) ([]byte, error) {
	var out bytes.Buffer
	for address := range strings.SplitSeq(strings.ReplaceAll(list, " ", ""), ",") {
		if _, err := netip.ParseAddr(address); err != nil {
			return nil, fmt.Errorf("dns ip %s is not a valid IP address", address)
		}
		fmt.Fprintf(&out, "nameserver %s\n", address)
	}
	return out.Bytes(), nil
}

// presentHostname writes the name of --hostname to /etc/hostname.
func (p *planner) presentHostname() error {
	name := p.o.Hostname
	if name == "" {
		return nil
	}
	if !validHostname(name) {
		return fmt.Errorf("%s is not a valid hostname", name)
	}
	p.generate("/etc/hostname", unix.S_IFREG|0o644, []byte(name+"\n"))
	return nil
}

// validHostname holds for names as in RFC 1123, of at most 64 bytes (HOST_NAME_MAX).
func validHostname(name string) bool {
	if len(name) > 64 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}
