package fusefs

import (
	"bytes"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/coracle-runtime/coracle/image/squashfs"
)

// requestServer makes a server that no kernel asks, of a small tree.
func requestServer(t testing.TB) *Server {
	dir := t.TempDir()
	write(t, dir+"/file", strings.Repeat("content", 50000))
	write(t, dir+"/dir/below", "x")
	os.Symlink("file", dir+"/link")
	s, err := New(openImage(t, pack(t, dir, squashfs.WriterOptions{})), Config{Entries: []Entry{
		{Path: "/dir/made", Mode: unix.S_IFREG | 0o644, Content: []byte("made")},
		{Path: "/new/deep", Mode: unix.S_IFDIR | 0o755},
		{Path: "/new/link", Mode: unix.S_IFLNK | 0o777, Content: []byte("deep")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lookUp returns a path's node id.
func lookUp(t testing.TB, s *Server, path string) uint64 {
	t.Helper()
	id := uint64(fuse.FUSE_ROOT_ID)
	for _, name := range strings.Split(path, "/") {
		var out fuse.EntryOut
		if status := s.Lookup(nil, &fuse.InHeader{NodeId: id}, name, &out); !status.Ok() || out.NodeId == 0 {
			t.Fatalf("look up %q of %s: %v", name, path, status)
		}
		id = out.NodeId
	}
	return id
}

// TestOpenWithoutTheKernelsHelp is how kernels that ask at each open are told
// to keep their caches.
func TestOpenWithoutTheKernelsHelp(t *testing.T) {
	s := requestServer(t)
	var out fuse.OpenOut
	if status := s.Open(nil, &fuse.OpenIn{}, &out); !status.Ok() || out.OpenFlags&fuse.FOPEN_KEEP_CACHE == 0 {
		t.Errorf("open: %v, %#x", status, out.OpenFlags)
	}
	if status := s.OpenDir(nil, &fuse.OpenIn{}, &out); !status.Ok() || out.OpenFlags&fuse.FOPEN_CACHE_DIR == 0 {
		t.Errorf("opendir: %v, %#x", status, out.OpenFlags)
	}
	if status := s.Open(nil, &fuse.OpenIn{Flags: unix.O_RDWR}, &out); status != fuse.EROFS {
		t.Errorf("open to write: %v", status)
	}
}

func TestAnswersHoldForEver(t *testing.T) {
	s := requestServer(t)
	var found, absent fuse.EntryOut
	s.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "file", &found)
	if found.EntryValid < 1<<32 || found.AttrValid < 1<<32 || found.Generation != 0 {
		t.Errorf("found: %+v", found)
	}
	status := s.Lookup(nil, &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}, "absent", &absent)
	if !status.Ok() || absent.NodeId != 0 || absent.EntryValid < 1<<32 {
		t.Errorf("absent: %v, %+v", status, absent)
	}
}

// TestRequestsMakeNoGarbage keeps the server's memory flat under load.
func TestRequestsMakeNoGarbage(t *testing.T) {
	if raceDetector {
		return // its pools forget at random, to find races
	}
	s := requestServer(t)
	id := lookUp(t, s, "file")
	buf := make([]byte, 128<<10)
	read := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: id}, Size: uint32(len(buf))}
	if n := testing.AllocsPerRun(100, func() { s.Read(nil, read, buf) }); n > 1 {
		t.Errorf("a READ allocates %v times", n) // the result itself
	}
	var attr fuse.AttrOut
	getattr := &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: id}}
	if n := testing.AllocsPerRun(100, func() { s.GetAttr(nil, getattr, &attr) }); n > 0 {
		t.Errorf("a GETATTR allocates %v times", n)
	}
	var out fuse.EntryOut
	root := &fuse.InHeader{NodeId: fuse.FUSE_ROOT_ID}
	if n := testing.AllocsPerRun(100, func() { s.Lookup(nil, root, "file", &out) }); n > 2 {
		t.Errorf("a LOOKUP allocates %v times", n)
	}
}

// TestDamageIsToldOnce does not flood a log with one line for each file.
func TestDamageIsToldOnce(t *testing.T) {
	s := requestServer(t)
	var lines bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&lines, nil))
	for range 3 {
		var out fuse.AttrOut
		if status := s.GetAttr(nil, &fuse.GetAttrIn{InHeader: fuse.InHeader{NodeId: 1 << 40}}, &out); status != fuse.EIO {
			t.Errorf("getattr of nothing: %v", status)
		}
	}
	if n := strings.Count(lines.String(), "\n"); n != 1 || !strings.Contains(lines.String(), "the image is damaged") {
		t.Errorf("%d lines:\n%s", n, &lines)
	}
}

func TestPanicBecomesEIO(t *testing.T) {
	s := requestServer(t)
	if status := s.options().PanicHandler("a bug"); status != fuse.EIO {
		t.Errorf("panic gives %v", status)
	}
}

// FuzzRequests sends requests with any node id, position and size, as no
// kernel does. Answers are free, panics and more bytes than asked for are not.
func FuzzRequests(f *testing.F) {
	s := requestServer(f)
	for _, path := range []string{"file", "dir", "dir/below", "dir/made", "new", "new/deep", "new/link", "link"} {
		id := lookUp(f, s, path)
		f.Add(id, uint64(0), uint16(4096), "below")
		f.Add(id, uint64(3), uint16(200), "made")
		f.Add(id+1, uint64(1<<20), uint16(1), "..")
	}
	f.Add(uint64(0), uint64(math.MaxUint64), uint16(65535), "")
	f.Add(uint64(1), uint64(math.MaxInt64), uint16(65535), strings.Repeat("x", 300))
	f.Add(uint64(math.MaxUint64), uint64(1), uint16(0), "file")
	f.Fuzz(func(t *testing.T, id, offset uint64, size uint16, name string) {
		exercise(t, s, id, offset, size, name)
	})
}

// TestRequestsOfAnyKind is the fuzzer's short form.
func TestRequestsOfAnyKind(t *testing.T) {
	s := requestServer(t)
	rng := rand.New(rand.NewPCG(9, 10))
	for range 20000 {
		id := uint64(1) << rng.IntN(64)
		id ^= uint64(rng.IntN(1 << 10))
		exercise(t, s, id, uint64(rng.Int64())>>rng.IntN(64), uint16(rng.Uint32()), "below")
	}
}

func exercise(t *testing.T, s *Server, id, offset uint64, size uint16, name string) {
	header := fuse.InHeader{NodeId: id}
	buf := make([]byte, size)
	var entry fuse.EntryOut
	var attr fuse.AttrOut
	s.Lookup(nil, &header, name, &entry)
	s.GetAttr(nil, &fuse.GetAttrIn{InHeader: header}, &attr)
	s.Readlink(nil, &header)
	s.GetXAttr(nil, &header, name, buf)
	s.ListXAttr(nil, &header, buf)
	in := &fuse.ReadIn{InHeader: header, Offset: offset, Size: uint32(size)}
	if result, status := s.Read(nil, in, buf); status.Ok() && result.Size() > len(buf) {
		t.Errorf("%d bytes read, %d asked for", result.Size(), len(buf))
	}
	list := fuse.NewDirEntryList(buf, offset)
	if s.ReadDir(nil, in, list).Ok() {
		if _, err := fuse.ParseDirEntries(list.Bytes()); err != nil {
			t.Error(err)
		}
	}
	list = fuse.NewDirEntryList(buf, offset)
	if s.ReadDirPlus(nil, in, list).Ok() {
		if _, _, err := fuse.ParseDirLookupEntries(list.Bytes()); err != nil {
			t.Error(err)
		}
	}
}
