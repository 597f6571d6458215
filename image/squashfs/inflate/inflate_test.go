package inflate

import (
	"bytes"
	"compress/zlib"
	hash "hash/adler32"
	"io"
	"math/rand/v2"
	"testing"
)

func deflated(t testing.TB, data []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zlib.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(data)
	z.Close()
	return b.Bytes()
}

func TestAdler32EqualsStandardLibrary(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := range 3000 {
		p := make([]byte, n*7)
		for i := range p {
			p[i] = byte(rnd.Uint32()) | byte(n%3/2*255)
		}
		if got, want := adler32(p), hash.Checksum(p); got != want {
			t.Fatalf("%d bytes: %#x, want %#x", len(p), got, want)
		}
	}
}

func TestZlibRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for n := 0; n < 400000; n = n*2 + 1 {
		for _, alphabet := range []int{1, 2, 3, 20, 256} {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(rnd.IntN(alphabet))
				if i > 300 && rnd.IntN(50) == 0 {
					from := rnd.IntN(i)
					copy(p[i:], p[from:from+rnd.IntN(i-from)])
				}
			}
			for _, level := range []int{-2, 0, 1, 6, 9} {
				z := deflated(t, p, level)
				dst := make([]byte, n)
				m, err := Zlib(dst, z)
				if err != nil || m != n || !bytes.Equal(dst, p) {
					t.Fatalf("%d bytes of %d symbols at level %d: got %d, %v", n, alphabet, level, m, err)
				}
				if n > 0 {
					if _, err := Zlib(dst[:n-1], z); err == nil {
						t.Fatalf("%d bytes in a buffer for %d", n, n-1)
					}
				}
				if _, err := Zlib(dst, z[:len(z)-1]); err == nil {
					t.Fatalf("truncated stream")
				}
			}
		}
	}
}

func FuzzInflate(f *testing.F) {
	f.Add([]byte{})
	for level := -2; level < 10; level++ {
		f.Add(deflated(f, bytes.Repeat([]byte("hello hello help \x00\xff"), 300), level))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 1 << 17
		want := make([]byte, limit+1)
		n := 0
		z, errStd := zlib.NewReader(bytes.NewReader(src))
		if errStd == nil {
			n, errStd = io.ReadFull(z, want)
			switch errStd {
			case nil:
				errStd = ErrTooLong
			case io.ErrUnexpectedEOF, io.EOF:
				_, errStd = z.Read(make([]byte, 1))
				if errStd == io.EOF {
					errStd = nil
				}
			}
		}
		for _, room := range []int{limit, n, n + 300} {
			dst := make([]byte, room+8)
			for i := range dst {
				dst[i] = 0xa5
			}
			m, err := Zlib(dst[:room], src)
			if (err == nil) != (errStd == nil) {
				t.Fatalf("room for %d: %v, compress/zlib: %v", room, err, errStd)
			}
			if err == nil && !bytes.Equal(dst[:m], want[:n]) {
				t.Fatalf("different bytes")
			}
			for _, c := range dst[room:] {
				if c != 0xa5 {
					t.Fatal("wrote behind the buffer")
				}
			}
		}
	})
}
