package sif

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"
)

func readFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(data string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(data))) }
