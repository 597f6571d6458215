package zstdblock_test

import (
	"os"
	"testing"
	"time"

	"github.com/coracle-runtime/coracle/image/squashfs/zstdblock"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// blocksOfProgram is the running test itself, in the blocks of an image.
func blocksOfProgram(b *testing.B) (blocks [][]byte, size int) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	program, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	for rest := program; len(rest) > 0; {
		n := min(len(rest), 128<<10)
		blocks = append(blocks, rest[:n])
		rest = rest[n:]
	}
	return blocks, len(program)
}

func benchmark(b *testing.B, compress func(dst, src []byte) []byte) {
	blocks, size := blocksOfProgram(b)
	var buf []byte
	packed, rounds := 0, 0
	b.SetBytes(int64(size))
	before := userTime(b)
	for b.Loop() {
		packed = 0
		rounds++
		for _, src := range blocks {
			buf = compress(buf[:0], src)
			packed += len(buf)
		}
	}
	// On a busy machine the time of the processor says more than that of the clock.
	b.ReportMetric(float64(rounds*size)/1e6/(userTime(b)-before).Seconds(), "MB/user-s")
	b.ReportMetric(float64(packed)/float64(size), "ratio")
}

func userTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

func BenchmarkEncoder(b *testing.B) {
	var e zstdblock.Encoder
	benchmark(b, e.AppendFrame)
}

func BenchmarkKlauspost(b *testing.B) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(128<<10), zstd.WithEncoderCRC(false))
	if err != nil {
		b.Fatal(err)
	}
	benchmark(b, func(dst, src []byte) []byte { return w.EncodeAll(src, dst) })
}
