package inflate

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func gzipped(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if len(data)%2 == 1 {
		z.Name, z.Comment, z.Extra = "name", "comment", make([]byte, len(data)%60000)
	}
	z.Write(data)
	z.Close()
	return b.Bytes()
}

// mixed is text, noise, runs and copies from far back.
func mixed(n int, seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 2))
	p := make([]byte, 0, n+70000)
	for len(p) < n {
		switch rnd.IntN(4) {
		case 0:
			for range rnd.IntN(20000) {
				p = append(p, byte(rnd.Uint32()))
			}
		case 1:
			p = append(p, bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(70000))...)
		case 2:
			for range rnd.IntN(3000) {
				p = fmt.Appendf(p, "line %d of it\n", rnd.IntN(1000))
			}
		default:
			if len(p) > 0 {
				from := max(0, len(p)-1-rnd.IntN(33000))
				p = append(p, p[from:from+min(rnd.IntN(300), len(p)-from)]...)
			}
		}
	}
	return p[:n]
}

func TestReaderReadsWhatGzipWrites(t *testing.T) {
	for i, n := range []int{0, 1, 2, 300, 32767, 32768, 32769, 65535, 163840, 164000, 500_001, 3_000_000} {
		p := mixed(n, uint64(i))
		for _, level := range []int{-2, 0, 1, 6, 9} {
			got, err := io.ReadAll(NewReader(bytes.NewReader(gzipped(t, p, level))))
			if err != nil || !bytes.Equal(got, p) {
				t.Errorf("%d bytes at level %d: got %d, %v", n, level, len(got), err)
			}
		}
	}
}

func TestReaderReadsInAnyPortions(t *testing.T) {
	p := mixed(400_000, 3)
	z := append(gzipped(t, p[:150_001], 6), gzipped(t, p[150_001:], 1)...)
	for name, r := range map[string]io.Reader{
		"one byte": iotest.OneByteReader(bytes.NewReader(z)),
		"half":     iotest.HalfReader(bytes.NewReader(z)),
		"data+EOF": iotest.DataErrReader(bytes.NewReader(z)),
	} {
		got, err := io.ReadAll(NewReader(r))
		if err != nil || !bytes.Equal(got, p) {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
	if err := iotest.TestReader(NewReader(bytes.NewReader(z)), p); err != nil {
		t.Error(err)
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	want := errors.New("no more")
	z := gzipped(t, mixed(300_000, 4), 6)
	for _, n := range []int{0, 5, 100, 70_000} {
		r := io.MultiReader(bytes.NewReader(z[:n]), iotest.ErrReader(want))
		if _, err := io.ReadAll(NewReader(r)); err != want {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, err := io.ReadAll(NewReader(stuck{})); err != io.ErrNoProgress {
		t.Error(err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func TestReaderRefusesTruncatedFiles(t *testing.T) {
	for _, level := range []int{0, 1, 6, -2} {
		z := gzipped(t, mixed(20_001, 5), level)
		for n := 0; n < len(z); n += 1 + n/500 {
			if _, err := io.ReadAll(NewReader(bytes.NewReader(z[:n]))); err != io.ErrUnexpectedEOF {
				t.Fatalf("%d bytes of %d: %v", n, len(z), err)
			}
		}
	}
}

// A match that reaches before the member's start is refused, also when there
// is a member before.
func TestReaderKeepsMembersApart(t *testing.T) {
	// A fixed block: length 3, distance 1, end.
	bits, n := uint64(1|1<<1), 3
	put := func(code uint64, length int) { // first bit of the code first
		for i := length - 1; i >= 0; i-- {
			bits |= code >> i & 1 << n
			n++
		}
	}
	put(0b0000001, 7)
	put(0, 5)
	put(0, 7)
	bad := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}, byte(bits), byte(bits>>8), byte(bits>>16), 0, 0, 0, 0, 0, 0, 0, 0)
	for _, before := range [][]byte{nil, gzipped(t, []byte("xxxx"), 6)} {
		if _, err := io.ReadAll(NewReader(bytes.NewReader(append(bytes.Clone(before), bad...)))); err != ErrGzip {
			t.Error(err)
		}
	}
}

func FuzzReader(f *testing.F) {
	for level := -2; level < 10; level++ {
		f.Add(gzipped(f, bytes.Repeat([]byte("hello hello help \x00\xff"), 300), level))
	}
	f.Add(append(gzipped(f, []byte("one"), 6), gzipped(f, []byte("two"), 0)...))
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 1 << 20
		var want []byte
		z, errStd := gzip.NewReader(bytes.NewReader(src))
		if errStd == nil {
			want, errStd = io.ReadAll(io.LimitReader(z, limit))
		}
		got, err := io.ReadAll(io.LimitReader(NewReader(bytes.NewReader(src)), limit))
		if len(want) == limit && len(got) == limit {
			err, errStd = nil, nil
		}
		// compress/gzip verifies headers' checksums and bounds their names.
		if err != nil && errStd == nil || err == nil && errStd != nil && errStd != gzip.ErrHeader {
			t.Fatalf("%v, compress/gzip: %v", err, errStd)
		}
		if err == nil && errStd == nil && !bytes.Equal(got, want) {
			t.Fatal("different bytes")
		}
	})
}

func BenchmarkReader(b *testing.B) {
	p := mixed(16<<20, 6)
	z := gzipped(b, p, 6)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if n, err := io.Copy(io.Discard, NewReader(bytes.NewReader(z))); err != nil || n != int64(len(p)) {
			b.Fatal(n, err)
		}
	}
}
