package zstdblock_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs/zstdblock"
	"github.com/klauspost/compress/zstd"
)

// decode decodes a frame by another's code, as strictly as the kernel: with a
// window of no more than the content.
func decode(t testing.TB, frame []byte, size int) []byte {
	t.Helper()
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(uint64(max(size, 1024))))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := r.DecodeAll(frame, nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func samples() map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, zstdblock.MaxSize)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var text bytes.Buffer
	for text.Len() < zstdblock.MaxSize {
		fmt.Fprintf(&text, "%s %d\n", strings.Repeat("lorem ipsum "[rnd.IntN(8):], rnd.IntN(3)), rnd.IntN(100000))
	}
	skewed := make([]byte, 300_000)
	for i := range skewed {
		skewed[i] = byte(rnd.ExpFloat64() * 9)
	}
	mixed := bytes.Clone(text.Bytes())
	copy(mixed[100_000:], noise[:300_000])
	copy(mixed[600_000:], make([]byte, 200_000))
	s := map[string][]byte{"skewed": skewed, "mixed": mixed}
	for _, n := range []int{0, 1, 2, 3, 8, 9, 10, 31, 32, 100, 255, 256, 257, 1000, 4096, 65535, 65791, 65792, 131071, 131072, 131073, 400_000, zstdblock.MaxSize} {
		s[fmt.Sprint("noise ", n)] = noise[:n]
		s[fmt.Sprint("text ", n)] = text.Bytes()[:n]
		s[fmt.Sprint("zeros ", n)] = make([]byte, n)
		s[fmt.Sprint("period 3 ", n)] = bytes.Repeat([]byte("abc"), n/3+1)[:n]
	}
	return s
}

func TestFramesAreDecoded(t *testing.T) {
	var e zstdblock.Encoder
	for name, src := range samples() {
		frame := e.AppendFrame([]byte("before"), src)
		if got := decode(t, frame[len("before"):], len(src)); !bytes.Equal(got, src) {
			t.Errorf("%s: decoded to something else", name)
		}
		if len(frame) > len(src)+100 {
			t.Errorf("%s: %d bytes became %d", name, len(src), len(frame))
		}
	}
}

func TestFramesDependOnTheBlockOnly(t *testing.T) {
	var used zstdblock.Encoder
	s := samples()
	for range 2 {
		for name, src := range s { // in any order
			var fresh zstdblock.Encoder
			if !bytes.Equal(used.AppendFrame(nil, src), fresh.AppendFrame(nil, src)) {
				t.Errorf("%s: a used encoder makes another frame than a fresh one", name)
			}
		}
	}
}

func FuzzEncoder(f *testing.F) {
	for _, src := range samples() {
		f.Add(src[:min(len(src), 3000)], uint16(0), uint16(0))
	}
	f.Fuzz(func(t *testing.T, src []byte, repeat, tail uint16) {
		// Long inputs out of short ones.
		big := bytes.Repeat(src, int(repeat)%64+1)
		big = append(big, src[:int(tail)%(len(src)+1)]...)
		big = big[:min(len(big), zstdblock.MaxSize)]
		var e zstdblock.Encoder
		if got := decode(t, e.AppendFrame(nil, big), len(big)); !bytes.Equal(got, big) {
			t.Error("decoded to something else")
		}
	})
}
