package native

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseEnv(t *testing.T) {
	for _, c := range []struct {
		flags []string
		want  variables
		err   string
	}{
		{flags: []string{"A=1"}, want: variables{{"A", "1"}}},
		{flags: []string{"A=1,B=2"}, want: variables{{"A", "1"}, {"B", "2"}}},
		{flags: []string{"A=1,2,3"}, want: variables{{"A", "1,2,3"}}},
		{flags: []string{`"A=x,y",B=z`}, want: variables{{"A", "x,y"}, {"B", "z"}}},
		{flags: []string{"A=", "B=a=b"}, want: variables{{"A", ""}, {"B", "a=b"}}},
		{flags: []string{"A=1", "B=2", "A=3"}, want: variables{{"A", "3"}, {"B", "2"}}},
		{flags: []string{"A"}, err: `--env "A": A must be formatted as key=value`},
		{flags: []string{"A=1,B,C=2"}, err: `--env "A=1,B,C=2": B must be formatted as key=value`},
	} {
		got, err := parseEnv(c.flags)
		if errText(err) != c.err {
			t.Errorf("%q: error %v, want %q", c.flags, err, c.err)
		}
		if diff := cmp.Diff(c.want, got); c.err == "" && diff != "" {
			t.Errorf("%q: %s", c.flags, diff)
		}
	}
}

func TestEnvFile(t *testing.T) {
	env := []string{"HOME=/h", "LANG=C", "BAD NAME=x"}
	for _, c := range []struct {
		content string
		want    variables
		err     string
	}{
		{content: "A=1\nB='two words'\n# C=3\nexport D=\"$HOME/$LANG\"\n", want: variables{{"A", "1"}, {"B", "two words"}, {"D", "/h/C"}}},
		{content: `A=a\ b`, want: variables{{"A", "a b"}}},
		{content: "LANG=de\nHOME=/x\nPWD=/y\nIFS=:\n", want: variables{{"LANG", "de"}}},
		{content: "A=$1\n[ $# = 2 ] && B=$2\n", want: variables{{"A", "x"}, {"B", "y z"}}},
		{content: "A='multi\nline'\n", want: variables{{"A", "multi\nline"}}},
		{content: "f() { A=1; }; f; for i in 1 2; do B=$B$i; done; unset i", want: variables{{"A", "1"}, {"B", "12"}}},
		{content: "A=$(echo no)\necho $A", want: variables{{"A", "no"}}},
		{content: "A=`date`", err: `could not execute "date": execution is disabled`},
		{content: "A=$(</etc/passwd)", err: `could not open/create/modify "/etc/passwd": file feature is disabled`},
		{content: "A='", err: "f.env:1:3: reached EOF without closing quote `'`"},
		{content: "", want: nil},
		{content: "while :; do :; done", err: "context deadline exceeded"},
	} {
		got, err := evaluateFile(EnvFile{"f.env", []byte(c.content)}, []string{"x", "y z"}, env, 200*time.Millisecond)
		if errText(err) != c.err {
			t.Errorf("%q: error %v, want %q", c.content, err, c.err)
		}
		if diff := cmp.Diff(c.want, got); c.err == "" && diff != "" {
			t.Errorf("%q: %s", c.content, diff)
		}
	}
}

func TestCapNames(t *testing.T) {
	for list, want := range map[string][]string{
		"": nil, "chown": {"CAP_CHOWN"}, "CAP_SYS_ADMIN, net_raw": {"CAP_SYS_ADMIN", "CAP_NET_RAW"}, "all": allCaps[:],
	} {
		if got, err := capNames(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", list, got, err)
		}
	}
}

// FuzzEnvFile looks for scripts that panic or are never given up on. Scripts
// that can ask for any amount of memory are left out: they are the user's own.
func FuzzEnvFile(f *testing.F) {
	for _, seed := range []string{"A=1\nB=\"$A\"\n", "export A=${B:-\"c\"} D=`e`", "f() { local x; }; f", "A=(1 2); ${A[0]}", "<<E\nE\n", `A=a\'b\
`, "${!x}", "$(( 1 / 0 ))"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if len(content) > 200 || strings.ContainsAny(content, "{[*%&|<>") || strings.Contains(content, "((") || strings.Contains(content, "let") {
			return // brace ranges, array indexes, printf widths, exponents, background jobs
		}
		begun := time.Now()
		vars, err := evaluateFile(EnvFile{"f", []byte(content)}, nil, nil, time.Second)
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%q took %s", content, took)
		}
		for _, v := range vars {
			if err == nil && strings.Contains(v.Name, "=") {
				t.Errorf("%q sets %q", content, v.Name)
			}
		}
	})
}
