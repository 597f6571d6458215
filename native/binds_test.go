package native

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseBinds(t *testing.T) {
	for _, c := range []struct {
		spec string
		want []bind
		err  string
	}{
		// The cases of SingularityCE's own tests.
		{spec: "/opt", want: []bind{{source: "/opt", target: "/opt"}}},
		{spec: "/opt,/tmp", want: []bind{{source: "/opt", target: "/opt"}, {source: "/tmp", target: "/tmp"}}},
		{spec: "/opt:/other", want: []bind{{source: "/opt", target: "/other"}}},
		{spec: "/opt:/other,/tmp:/other2", want: []bind{{source: "/opt", target: "/other"}, {source: "/tmp", target: "/other2"}}},
		{spec: "/opt:/other:ro", want: []bind{{source: "/opt", target: "/other", readOnly: true}}},
		{spec: "/opt:/other:ro,/tmp:/other2:ro", want: []bind{{source: "/opt", target: "/other", readOnly: true}, {source: "/tmp", target: "/other2", readOnly: true}}},
		{spec: "/opt:/other:ro,rw,/tmp:/other2:rw", want: []bind{{source: "/opt", target: "/other", readOnly: true}, {source: "/tmp", target: "/other2"}}},
		{spec: "/opt:/other:invalid", err: `bind "/opt:/other:invalid": invalid is not a valid bind option`},
		{spec: "/opt:/other:rw:invalid", err: `bind "/opt:/other:rw:invalid": too many colons`},
		{spec: "test.sif:/other:image-src", err: `bind "test.sif:/other:image-src": image-src is not a valid bind option`},
		{spec: "test.sif:/other:image-src=/opt,id=2", err: `bind "test.sif:/other:image-src=/opt,id=2": binding from inside an image file is not supported`},
		// Beyond them.
		{spec: ""},
		{spec: ",, ,"},
		{spec: " /a , /b ", want: []bind{{source: "/a", target: "/a"}, {source: "/b", target: "/b"}}},
		{spec: "/a::ro", want: []bind{{source: "/a", target: "/a", readOnly: true}}},
		{spec: "/a:", want: []bind{{source: "/a", target: "/a"}}},
		{spec: `/a\,b\:c:/d\\e`, want: []bind{{source: "/a,b:c", target: `/d\e`}}},
		{spec: `/a\b`, want: []bind{{source: `/a\b`, target: `/a\b`}}},
		{spec: "/a:/b,ro", want: []bind{{source: "/a", target: "/b"}, {source: "ro", target: "ro"}}},
		{spec: ":/b", err: `bind ":/b": the source is empty`},
		{spec: strings.Repeat("a,", maxBinds+1), err: "bind \"" + strings.Repeat("a,", 100) + "…\": too many binds"},
	} {
		got, err := parseBinds(c.spec)
		if errText(err) != c.err {
			t.Errorf("%.50q: error %q, want %q", c.spec, errText(err), c.err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(bind{})); c.err == "" && diff != "" {
			t.Errorf("%q: %s", c.spec, diff)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		spec string
		want []bind
		err  string
	}{
		{spec: "type=bind,source=/opt,destination=/other", want: []bind{{source: "/opt", target: "/other"}}},
		{spec: "src=/opt,dst=/other,ro", want: []bind{{source: "/opt", target: "/other", readOnly: true}}},
		{spec: "source=/opt,target=/other,readonly", want: []bind{{source: "/opt", target: "/other", readOnly: true}}},
		{spec: "source=/opt,dest=/other", want: []bind{{source: "/opt", target: "/other"}}},
		{spec: `type=bind,"source=/comma,dir","destination=/quote""dir"`, want: []bind{{source: "/comma,dir", target: `/quote"dir`}}},
		{spec: "source=/a=b,destination=/c:d", want: []bind{{source: "/a=b", target: "/c:d"}}},
		{spec: "src=/a,dst=/b\nsrc=/c,dst=/d", want: []bind{{source: "/a", target: "/b"}, {source: "/c", target: "/d"}}},
		{spec: "type=tmpfs,dst=/t,tmpfs-size=10m,tmpfs-mode=1777", want: []bind{{target: "/t", tmpfs: true, data: "size=10m,mode=1777"}}},
		{spec: "type=volume,source=a,destination=/b", err: `unsupported mount type "volume", only 'bind' and 'tmpfs' are supported`},
		{spec: "source=/opt", err: "mounts must specify a source and a destination"},
		{spec: "destination=/opt", err: "mounts must specify a source and a destination"},
		{spec: "source=,destination=/opt", err: "mount source cannot be empty"},
		{spec: "source=/opt,destination=", err: "mount destination cannot be empty"},
		{spec: "source=/a,destination=/b,bind-propagation=shared", err: "bind-propagation not supported for individual mounts"},
		{spec: "source=/a,destination=/b,nonsense", err: `invalid key "nonsense" in mount specification`},
		{spec: "source=/a,destination=/b,tmpfs-size=1g", err: "tmpfs options need type=tmpfs"},
		{spec: "type=tmpfs,dst=/b,tmpfs-size=1,mode=0", err: `invalid key "mode" in mount specification`},
		{spec: "type=tmpfs,dst=/b,tmpfs-size=huge", err: `"huge" is not a size such as 1g`},
		{spec: "source=/a.sif,destination=/b,image-src=/", err: "binding from inside an image file is not supported"},
		{spec: `"`, err: "error parsing mount: "},
	} {
		got, err := parseMount(c.spec)
		if !strings.Contains(errText(err), c.err) || c.err == "" && err != nil {
			t.Errorf("%q: error %q, want %q", c.spec, errText(err), c.err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(bind{})); c.err == "" && diff != "" {
			t.Errorf("%q: %s", c.spec, diff)
		}
	}
}

func FuzzBinds(f *testing.F) {
	for _, seed := range []string{"/opt:/other:ro,rw,/tmp:/other2:ro", `/a\,b\:c:/d\\e`, ":::", "type=bind,source=/opt,destination=/other,ro", "a\x00b:/c", `"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		binds, err := userBinds(Options{Bind: []string{spec}})
		for _, b := range binds {
			if b.source == "" || b.target == "" || b.target[0] != '/' {
				t.Errorf("%q gives %+v", spec, b)
			}
		}
		if err == nil {
			// What is written with escapes is read as it was.
			var written []string
			escape := strings.NewReplacer(`\`, `\\`, ",", `\,`, ":", `\:`)
			for _, b := range binds {
				line := escape.Replace(b.source) + ":" + escape.Replace(b.target)
				if b.readOnly {
					line += ":ro"
				}
				written = append(written, line)
			}
			again, err := parseBinds(strings.Join(written, ","))
			if diff := cmp.Diff(binds, again, cmp.AllowUnexported(bind{})); err != nil || diff != "" && len(binds) > 0 {
				t.Errorf("%q: %v %s", spec, err, diff)
			}
		}
		if binds, err := userBinds(Options{Mount: []string{spec}}); err == nil {
			for _, b := range binds {
				if b.target == "" || b.source == "" && !b.tmpfs {
					t.Errorf("%q gives %+v", spec, b)
				}
			}
		}
	})
}
