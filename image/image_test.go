package image

import (
	"os"
	"os/exec"
	"testing"
)

// needs skips a test where a program is missing, and fails it where nothing may
// be missing.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			if os.Getenv("CORACLE_TEST_STRICT") == "1" {
				t.Fatalf("needs %s", p)
			}
			t.Skipf("needs %s", p)
		}
	}
}

// run runs a program and returns its output.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
	return string(out)
}
