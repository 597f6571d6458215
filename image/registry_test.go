package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
)

// testRegistry is a registry in memory that counts its requests and can be
// made to fail.
type testRegistry struct {
	*httptest.Server
	inner    http.Handler
	mu       sync.Mutex
	requests []string
	fail     func(w http.ResponseWriter, r *http.Request) bool
}

func newTestRegistry(t testing.TB) *testRegistry {
	t.Helper()
	tr := &testRegistry{}
	tr.inner = ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	tr.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		tr.requests = append(tr.requests, r.Method+" "+r.URL.Path)
		fail := tr.fail
		tr.mu.Unlock()
		if fail == nil || !fail(w, r) {
			tr.inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(tr.Close)
	return tr
}

func (tr *testRegistry) host() string { return strings.TrimPrefix(tr.URL, "http://") }

// since returns the requests since the last call.
func (tr *testRegistry) since() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	r := tr.requests
	tr.requests = nil
	return r
}

func (tr *testRegistry) failWith(fail func(w http.ResponseWriter, r *http.Request) bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.fail = fail
}

// push uploads the blobs and manifests of a layout by plain requests, the last
// manifest as a tag. It returns the URI.
func (tr *testRegistry) push(t testing.TB, repo, tag string, members []testMember) URI {
	t.Helper()
	put := func(method, url, contentType string, content []byte) {
		req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := tr.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s\n%s", method, url, resp.Status, body)
		}
	}
	base := tr.URL + "/v2/" + repo
	for _, m := range members {
		digest := "sha256:" + filepath.Base(m.name)
		if strings.HasPrefix(m.name, "blobs/") {
			put("POST", base+"/blobs/uploads/?digest="+digest, "application/octet-stream", m.content)
		}
		switch {
		case bytes.Contains(m.content, []byte(`"mediaType":"`+typeOCIIndex+`","config"`)):
			put("PUT", base+"/manifests/"+digest, typeOCIIndex, m.content)
		case bytes.Contains(m.content, []byte(`"mediaType":"`+typeOCIManifest+`","config"`)):
			put("PUT", base+"/manifests/"+digest, typeOCIManifest, m.content)
		}
		if m.name == "index.json" {
			put("PUT", base+"/manifests/"+tag, typeOCIIndex, m.content)
		}
	}
	tr.since()
	u, err := ParseURI("docker://" + tr.host() + "/" + repo + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPullFromRegistry(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, true, greetings(t)))
	for name, cache := range map[string]*Cache{"no cache": nil, "cache": {t.TempDir()}} {
		t.Run(name, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), u.FileName())
			temp := t.TempDir()
			var last Event
			var mu sync.Mutex
			o := BuildOptions{Cache: cache, PullOptions: PullOptions{TempDir: temp, Progress: func(e Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Phase == "download" && e.Done > last.Done {
					last = e
				}
			}}}
			if err := Pull(t.Context(), u, dest, o); err != nil {
				t.Fatal(err)
			}
			checkGreetings(t, dest)
			nothingBeside(t, filepath.Dir(dest), "greet_1.sif")
			nothingBeside(t, temp)
			if last.Done == 0 || last.Done != last.Total {
				t.Errorf("download ended with %+v", last)
			}
			if err := Pull(t.Context(), u, dest, o); err == nil || err.Error() != fmt.Sprintf("image file already exists: %q - will not overwrite", dest) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestCachedTagCostsOneHead(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, true, greetings(t)))
	c := &Cache{t.TempDir()}
	first, err := c.Get(t.Context(), u, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tr.since()
	second, err := c.Get(t.Context(), u, PullOptions{})
	if err != nil || first != second {
		t.Fatalf("%s and %s, %v", first, second, err)
	}
	var after []string
	for _, r := range tr.since() {
		if r != "GET /v2/" { // the question which protocol is spoken
			after = append(after, r)
		}
	}
	if strings.Join(after, ";") != "HEAD /v2/me/greet/manifests/1" {
		t.Errorf("requests: %q", after)
	}
	// Other options are another image, of the same blobs.
	third, err := c.Get(t.Context(), u, PullOptions{Level: 5})
	if err != nil || third == first {
		t.Errorf("%s, %v", third, err)
	}
	for _, r := range tr.since() {
		if strings.Contains(r, "/blobs/") {
			t.Errorf("a blob is got again: %s", r)
		}
	}
	// The tag moves.
	other := greetings(t)
	other.config.Config.Labels["maker"] = "someone else"
	tr.push(t, "me/greet", "1", layout(t, true, other))
	if fourth, err := c.Get(t.Context(), u, PullOptions{}); err != nil || fourth == first {
		t.Errorf("%s, %v", fourth, err)
	}
}

func TestCacheWorksWithoutTheNetwork(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, false, greetings(t)))
	c := &Cache{t.TempDir()}
	first, err := c.Get(t.Context(), u, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tr.Close()
	var lines bytes.Buffer
	second, err := c.Get(t.Context(), u, PullOptions{Log: slog.New(slog.NewTextHandler(&lines, nil))})
	if err != nil || second != first || !strings.Contains(lines.String(), "cannot be reached") {
		t.Errorf("%s, %v, %s", second, err, lines.String())
	}
	_, err = (&Cache{t.TempDir()}).Get(t.Context(), u, PullOptions{})
	var unreachable UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Registry != tr.host() {
		t.Errorf("an image from nowhere: %v", err)
	}
}

func TestPullChoosesThePlatform(t *testing.T) {
	images := []*testImage{}
	for _, p := range []platform{{"windows", runtime.GOARCH, ""}, {"linux", "s390x", ""}, {"linux", "arm", "v6"}, {"linux", "arm", "v7"}, {"linux", runtime.GOARCH, ""}} {
		i := greetings(t)
		i.config.OS, i.config.Architecture, i.config.Variant = p.OS, p.Architecture, p.Variant
		i.config.Config.Labels["platform"] = p.String()
		images = append(images, i)
	}
	tr := newTestRegistry(t)
	u := tr.push(t, "me/many", "latest", layout(t, false, images...))
	for asked, want := range map[string]string{
		"": "linux/" + runtime.GOARCH, "linux/s390x": "linux/s390x", "arm": "linux/arm/v7", "linux/arm/v6": "linux/arm/v6",
		"linux/arm/v5": "", "riscv64": "", "windows/amd64": "",
	} {
		dest := filepath.Join(t.TempDir(), "x.sif")
		err := Pull(t.Context(), u, dest, BuildOptions{PullOptions: PullOptions{Platform: asked}})
		if want == "" {
			if err == nil {
				t.Errorf("%s: pulled", asked)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", asked, err)
			continue
		}
		img, err := OpenWith(dest, OpenOptions{AnyArch: true})
		if err != nil {
			t.Fatal(err)
		}
		labels, err := img.Labels()
		if err != nil || labels["platform"] != want || img.Arch != strings.Split(want, "/")[1] {
			t.Errorf("%s: %s on %s, %v", asked, labels["platform"], img.Arch, err)
		}
		img.Close()
	}
}

func TestPullRetriesABrokenConnection(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, false, greetings(t)))
	var mu sync.Mutex
	broken := map[string]int{}
	tr.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != "GET" || !strings.Contains(r.URL.Path, "/blobs/") || broken[r.URL.Path] == 2 {
			return false
		}
		broken[r.URL.Path]++
		whole := httptest.NewRecorder()
		tr.inner.ServeHTTP(whole, r)
		body := whole.Body.Bytes()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(whole.Code)
		_, _ = w.Write(body[:len(body)/(4-broken[r.URL.Path])]) // and the connection ends
		return true
	})
	dest := filepath.Join(t.TempDir(), "x.sif")
	if err := Pull(t.Context(), u, dest, BuildOptions{PullOptions: PullOptions{retryPause: 1}}); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, dest)
}

func TestPullRefusesWrongBlobs(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, false, greetings(t)))
	for name, content := range map[string]string{"other": "something else", "longer": strings.Repeat("x", 10<<20), "empty": ""} {
		t.Run(name, func(t *testing.T) {
			tr.failWith(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != "GET" || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				_, _ = io.WriteString(w, content)
				return true
			})
			c := &Cache{t.TempDir()}
			if _, err := c.Get(t.Context(), u, PullOptions{retryPause: 1}); err == nil {
				t.Error("it was pulled")
			}
			blobs, _ := filepath.Glob(filepath.Join(c.Dir, "blob/blobs/sha256/*"))
			for _, b := range blobs {
				if raw, err := os.ReadFile(b); err != nil || digestOf(raw) != "sha256:"+filepath.Base(b) {
					t.Errorf("%s is in the cache with another content", b)
				}
			}
		})
	}
}

func TestPullExplainsRefusals(t *testing.T) {
	tr := newTestRegistry(t)
	u, err := ParseURI("docker://" + tr.host() + "/no/such:1")
	if err != nil {
		t.Fatal(err)
	}
	err = Pull(t.Context(), u, filepath.Join(t.TempDir(), "x.sif"), BuildOptions{})
	var refused RegistryError
	if !errors.As(err, &refused) || refused.Status != http.StatusNotFound || !strings.Contains(refused.Hint(), "/no/such:1") {
		t.Errorf("%v", err)
	}
}

func TestDamagedBlobIsReplaced(t *testing.T) {
	tr := newTestRegistry(t)
	u := tr.push(t, "me/greet", "1", layout(t, false, greetings(t)))
	c := &Cache{t.TempDir()}
	path, err := c.Get(t.Context(), u, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	blobs, _ := filepath.Glob(filepath.Join(c.Dir, "blob/blobs/sha256/*"))
	for _, b := range blobs {
		raw, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(b, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(t.Context(), u, PullOptions{}); err == nil {
		t.Error("an image of damaged layers")
	}
	if path, err = c.Get(t.Context(), u, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	checkGreetings(t, path)
}
