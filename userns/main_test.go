package userns

import (
	"context"
	"os"
	"testing"
	"time"
)

// TestMain makes the test binary its own child program, as coracle is.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "x" && os.Args[2] == "probe" {
		if os.Args[3] == "hang" {
			time.Sleep(time.Minute) // longer than probeLimit
		}
		os.Exit(ProbeChild(os.Args[3]))
	}
	if len(os.Args) > 2 && os.Args[1] == "x" {
		os.Exit(runChild(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// needs skips a test that cannot run here; with CORACLE_TEST_STRICT=1 it fails.
func needs(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CORACLE_TEST_STRICT") == "1" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

// ctxOfTests is for children, which have no *testing.T.
func ctxOfTests() context.Context { return context.Background() }
