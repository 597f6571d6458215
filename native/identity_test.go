package native

import (
	"bytes"
	"strings"
	"testing"
)

func TestPasswd(t *testing.T) {
	alice := User{Name: "alice", Gecos: "Alice A,,,", Home: "/home/alice", Shell: "/bin/zsh"}
	for _, c := range []struct {
		name, template, want string
		user                 User
		uid                  int
	}{
		{"appended", "root:x:0:0:root:/root:/bin/sh\n", "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:100:Alice A,,,:/home/alice:/bin/zsh\n", alice, 1000},
		{"replaced, with the image's shell", "u:x:1000:9:U:/u:/bin/sh\nroot:x:0:0::/:\n", "alice:x:1000:100:Alice A,,,:/home/alice:/bin/sh\nroot:x:0:0::/:\n", alice, 1000},
		{"the first of two", "a:x:1000:1::/:/a\nb:x:1000:1::/:/b\n", "alice:x:1000:100:Alice A,,,:/home/alice:/a\nb:x:1000:1::/:/b\n", alice, 1000},
		{"no line end", "root:x:0:0::/:/sh", "root:x:0:0::/:/sh\nalice:x:1000:100:Alice A,,,:/home/alice:/bin/zsh\n", alice, 1000},
		{"lines that are none stay", "# c\n\n+nis\nx:y\n", "# c\n\n+nis\nx:y\nalice:x:1000:100:Alice A,,,:/home/alice:/bin/zsh\n", alice, 1000},
		{"nothing", "", "alice:x:1000:100:Alice A,,,:/home/alice:/bin/zsh\n", alice, 1000},
		{"a huge uid", "", "alice:x:4294967294:100:Alice A,,,:/home/alice:/bin/zsh\n", alice, 4294967294},
		{"separators in fields", "", "ab:x:1:100:g:/hx:/s\n", User{"a:b", "g\n", "/h:x", "/s"}, 1},
	} {
		if got := string(passwd([]byte(c.template), c.user, c.uid, 100)); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.name, got, c.want)
		}
	}
}

func TestGroup(t *testing.T) {
	groups := []Group{{1000, "alice"}, {100, "users"}, {5000, ""}, {100, "again"}, {4294967294, "huge"}}
	got := string(group([]byte("root:x:0:\nusers:x:100:bob"), "alice", 1000, groups))
	if want := "root:x:0:\nusers:x:100:bob\nalice:x:1000:alice\nusers:x:100:alice\nhuge:x:4294967294:alice\n"; got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
	got = string(group([]byte("root:x:0:\nalice:x:1000:\n"), "alice", 1000, groups[:1]))
	if want := "root:x:0:\nalice:x:1000:\n"; got != want {
		t.Errorf("the primary group: got %q, want %q", got, want)
	}
}

func TestHostnames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "box-1.example.org": true, "9": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, "a-": false, "a..b": false, ".a": false, "a_b": false, "ä": false, "a b": false, strings.Repeat("a", 65): false,
	} {
		if validHostname(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// FuzzPasswd holds that every line of the template but one stays, and that the
// user can be found.
func FuzzPasswd(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nu:x:1000:9:U:/u:/bin/sh"), "alice", "/home/alice")
	f.Add([]byte(":::1000:::\n\x00"), "a:b\nc", "")
	f.Fuzz(func(t *testing.T, template []byte, name, home string) {
		out := passwd(template, User{Name: name, Home: home}, 1000, 1000)
		found, lines := 0, bytes.Count(out, []byte("\n"))
		for l := range bytes.Lines(out) {
			fields := strings.Split(strings.TrimSuffix(string(l), "\n"), ":")
			if len(fields) == 7 && fields[2] == "1000" && fields[0] == field(name) && fields[5] == field(home) {
				found++
			}
		}
		want := bytes.Count(template, []byte("\n"))
		if len(template) > 0 && template[len(template)-1] != '\n' {
			want++
		}
		if found == 0 || lines < want || lines > want+1 {
			t.Errorf("%d lines of %d, %d of them the user's: %q", lines, want, found, out)
		}
	})
}
