package sif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	oracle "github.com/sylabs/sif/v2/pkg/sif"
)

// object is an image's data object, for our writer and for the oracle's.
type object struct {
	t          DataType
	name, data string
	part       *Partition
}

var when = time.Unix(1700000000, 0)

var testID = [16]byte{0xb2, 0x65, 0x9d, 0x4e, 0xbd, 0x50, 0x4e, 0xa5, 0xbd, 0x17, 0xee, 0xc5, 0xe5, 0x4f, 0x91, 0x8e}

const testUUID = "b2659d4e-bd50-4ea5-bd17-eec5e54f918e"

func native(arch string) []object {
	return []object{
		{t: DataDeffile, data: "bootstrap: docker-archive\nfrom: x.tar\n\n"},
		{t: DataGenericJSON, name: "inspect-metadata.json", data: `{"data":{}}`},
		{t: DataGenericJSON, name: "oci-config.json", data: `{}`},
		{t: DataPartition, data: "hsqs" + string(make([]byte, 50)), part: &Partition{FSSquashfs, PartPrimary, arch}},
		{t: DataPartition, name: "overlay", data: "ext3!", part: &Partition{FSExt3, PartOverlay, arch}},
	}
}

var ociObjects = []object{
	{t: DataOCIBlob, data: "hsqs layer"},
	{t: DataOCIBlob, data: "{config}"},
	{t: DataOCIBlob, data: "{manifest}"},
	{t: DataOCIRootIndex, data: "{index}"},
}

func ours(t *testing.T, path string, o Options, objects []object) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, err := NewWriter(f, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, obj := range objects {
		d := Descriptor{Type: obj.t, Group: 1, Name: obj.name}
		switch {
		case obj.part != nil:
			if err := d.SetPartition(*obj.part); err != nil {
				t.Fatal(err)
			}
		case obj.t == DataOCIBlob || obj.t == DataOCIRootIndex:
			if err := d.SetDigest(digestOf(obj.data)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Add(d, []byte(obj.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// theirs writes an image with sylabs/sif.
func theirs(t *testing.T, path string, objects []object, opts ...oracle.CreateOpt) {
	t.Helper()
	for _, obj := range objects {
		var o []oracle.DescriptorInputOpt
		if obj.name != "" {
			o = append(o, oracle.OptObjectName(obj.name))
		}
		if obj.part != nil {
			o = append(o, oracle.OptPartitionMetadata(oracle.FSType(obj.part.FS), oracle.PartType(obj.part.Type), obj.part.Arch))
		}
		in, err := oracle.NewDescriptorInput(oracle.DataType(obj.t), bytes.NewReader([]byte(obj.data)), o...)
		if err != nil {
			t.Fatal(err)
		}
		opts = append(opts, oracle.OptCreateWithDescriptors(in))
	}
	img, err := oracle.CreateContainerAtPath(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	if err := img.UnloadContainer(); err != nil {
		t.Fatal(err)
	}
}

func TestWritesTheSameBytesAsTheOracle(t *testing.T) {
	script := oracle.OptCreateWithLaunchScript(LaunchScript)
	for name, test := range map[string]struct {
		ours    Options
		theirs  []oracle.CreateOpt
		objects []object
	}{
		"native": {
			Options{ID: testID, Time: when, Launch: LaunchScript},
			[]oracle.CreateOpt{script, oracle.OptCreateWithID(testUUID), oracle.OptCreateWithTime(when)},
			native("amd64"),
		},
		"deterministic": {
			Options{Launch: LaunchScript},
			[]oracle.CreateOpt{script, oracle.OptCreateDeterministic()},
			native("loong64"),
		},
		"oci": {
			Options{ID: testID, Time: when, Capacity: 12},
			[]oracle.CreateOpt{oracle.OptCreateWithID(testUUID), oracle.OptCreateWithTime(when), oracle.OptCreateWithDescriptorCapacity(12)},
			ociObjects,
		},
		"empty": {
			Options{ID: testID, Time: when},
			[]oracle.CreateOpt{oracle.OptCreateWithID(testUUID), oracle.OptCreateWithTime(when)},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a, b := filepath.Join(dir, "ours.sif"), filepath.Join(dir, "theirs.sif")
			ours(t, a, test.ours, test.objects)
			theirs(t, b, test.objects, test.theirs...)
			got, err := os.ReadFile(a)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("images of %d and %d bytes differ at %d", len(got), len(want), differAt(got, want))
			}
		})
	}
}

func differAt(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func TestNativeImageStartsItsDataWhereSingularityDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sif")
	ours(t, path, Options{}, native("amd64"))
	if f := readFile(t, path); f.DataOffset != 32176 || f.Descriptors[0].Offset != 32176 {
		t.Errorf("data begin at %d, the first object at %d, want 32176", f.DataOffset, f.Descriptors[0].Offset)
	}
}

func TestReadsWhatTheOracleWrites(t *testing.T) {
	for name, objects := range map[string][]object{"native": native("riscv64"), "oci": ociObjects} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.sif")
			theirs(t, path, objects, oracle.OptCreateDeterministic(), oracle.OptCreateWithLaunchScript(LaunchScript))
			compare(t, path, objects)
		})
	}
}

func TestOracleReadsWhatWeWrite(t *testing.T) {
	for name, objects := range map[string][]object{"native": native("arm64"), "oci": ociObjects} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.sif")
			ours(t, path, Options{ID: testID, Time: when}, objects)
			compare(t, path, objects)
		})
	}
}

// compare reads an image with our reader and with the oracle's.
func compare(t *testing.T, path string, objects []object) {
	t.Helper()
	got := readFile(t, path)
	want, err := oracle.LoadContainerFromPath(path, oracle.OptLoadWithFlag(os.O_RDONLY))
	if err != nil {
		t.Fatal(err)
	}
	defer want.UnloadContainer()
	if got.Arch != want.PrimaryArch() || got.Launch != want.LaunchScript() || !got.Created.Equal(want.CreatedAt()) ||
		got.DataOffset != want.DataOffset() || int64(got.Capacity) != want.DescriptorsTotal() {
		t.Errorf("header differs: %+v", got)
	}
	all, err := want.GetDescriptors()
	if err != nil || len(all) != len(got.Descriptors) || len(all) != len(objects) {
		t.Fatalf("%d objects, oracle sees %d (%v), want %d", len(got.Descriptors), len(all), err, len(objects))
	}
	for i, w := range all {
		g := got.Descriptors[i]
		link, isGroup := w.LinkedID()
		if DataType(w.DataType()) != g.Type || w.DataType().String() != g.Type.String() || w.ID() != g.ID || w.GroupID() != g.Group ||
			link != g.Link || isGroup != g.LinkGroup || w.Offset() != g.Offset || w.Size() != g.Size || w.Name() != g.Name ||
			!w.CreatedAt().Equal(g.Created) || !w.ModifiedAt().Equal(g.Modified) {
			t.Errorf("descriptor differs: %+v", g)
		}
		data, err := got.Data(g, 1<<20)
		if err != nil || string(data) != objects[i].data {
			t.Errorf("%v: data differ (%v)", g, err)
		}
		compareExtra(t, g, w)
	}
}

func compareExtra(t *testing.T, g Descriptor, w oracle.Descriptor) {
	t.Helper()
	if fs, use, arch, err := w.PartitionMetadata(); err == nil {
		p, err := g.Partition()
		if err != nil || FSType(fs) != p.FS || PartType(use) != p.Type || arch != p.Arch ||
			fs.String() != p.FS.String() || use.String() != p.Type.String() {
			t.Errorf("%v: partition differs: %+v (%v)", g, p, err)
		}
	}
	if digest, err := w.OCIBlobDigest(); err == nil {
		if d, err := g.Digest(); err != nil || d != digest.String() {
			t.Errorf("%v: digest %q (%v), want %v", g, d, err, digest)
		}
	}
}

func TestPrimary(t *testing.T) {
	dir := t.TempDir()
	ours(t, filepath.Join(dir, "native.sif"), Options{}, native("s390x"))
	ours(t, filepath.Join(dir, "oci.sif"), Options{}, ociObjects)
	f := readFile(t, filepath.Join(dir, "native.sif"))
	d, p, err := f.Primary()
	if err != nil || d.ID != 4 || p != (Partition{FSSquashfs, PartPrimary, "s390x"}) || f.Arch != "s390x" || f.IsOCI() {
		t.Errorf("primary %+v %+v %v, image is for %s, OCI %v", d, p, err, f.Arch, f.IsOCI())
	}
	if d.Offset%4096 != 0 {
		t.Errorf("partition at %d is not aligned", d.Offset)
	}
	f = readFile(t, filepath.Join(dir, "oci.sif"))
	if _, _, err := f.Primary(); !errors.Is(err, ErrNoPrimary) || !f.IsOCI() || f.Arch != UnknownArch {
		t.Errorf("primary of an OCI-SIF: %v, OCI %v, arch %s", err, f.IsOCI(), f.Arch)
	}
}

func TestPartitionIsWrittenInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sif")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w, err := NewWriter(file, Options{Launch: LaunchScript, Time: when})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(Descriptor{Type: DataDeffile, Group: 1}, []byte("x")); err != nil {
		t.Fatal(err)
	}
	d := Descriptor{Type: DataPartition, Group: 1}
	if err := d.SetPartition(Partition{FSSquashfs, PartPrimary, "amd64"}); err != nil {
		t.Fatal(err)
	}
	section, err := w.Begin(d)
	if err != nil {
		t.Fatal(err)
	}
	section.WriteAt([]byte("tail"), 8192)
	section.WriteAt([]byte("head"), 0)
	back := make([]byte, 4)
	if _, err := section.ReadAt(back, 8192); err != nil || string(back) != "tail" {
		t.Errorf("read back %q, %v", back, err)
	}
	if err := w.Close(); err == nil {
		t.Error("closed with an object open")
	}
	if head := make([]byte, 64); IsSIF(head) {
		t.Error("an unfinished image counts as SIF")
	}
	if d, err = w.End(8196); err != nil || d.Offset != section.Offset {
		t.Fatal(d, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, p, err := readFile(t, path).Primary()
	if err != nil || got.Offset != 32768 || got.Size != 8196 || p.Arch != "amd64" || w.Size() != 32768+8196 {
		t.Errorf("%+v %+v %v", got, p, err)
	}
}

func TestWriterRefuses(t *testing.T) {
	partition := func(arch string) Descriptor {
		d := Descriptor{Type: DataPartition}
		if err := d.SetPartition(Partition{FSSquashfs, PartPrimary, arch}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	w, err := NewWriter(discard{}, Options{Capacity: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.End(1); err == nil {
		t.Error("End without Begin")
	}
	if _, err := w.Add(Descriptor{Type: DataGeneric, Name: string(make([]byte, 129))}, nil); err == nil {
		t.Error("a name that is too long")
	}
	if _, err := w.Add(partition("amd64"), nil); err != nil {
		t.Error(err)
	}
	if _, err := w.Add(partition("amd64"), nil); err == nil {
		t.Error("a second primary partition")
	}
	if _, err := w.Begin(Descriptor{Type: DataGeneric}); err != nil {
		t.Error(err)
	}
	if _, err := w.Begin(Descriptor{Type: DataGeneric}); err == nil {
		t.Error("Begin inside of Begin")
	}
	if _, err := w.End(0); err != nil {
		t.Error(err)
	}
	if _, err := w.Add(Descriptor{Type: DataGeneric}, nil); err == nil {
		t.Error("more objects than descriptors")
	}
	if _, err := NewWriter(discard{}, Options{Launch: string(make([]byte, 32))}); err == nil {
		t.Error("a launch script that is too long")
	}
	if err := new(Descriptor).SetPartition(Partition{Arch: "pdp11"}); err == nil {
		t.Error("an architecture without code")
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (discard) ReadAt([]byte, int64) (int, error)      { return 0, io.EOF }

func TestDeriveID(t *testing.T) {
	a, b := DeriveID([]byte("ab"), []byte("c")), DeriveID([]byte("a"), []byte("bc"))
	if a == b || a != DeriveID([]byte("ab"), []byte("c")) {
		t.Errorf("%x %x", a, b)
	}
	if a[6]>>4 != 8 || a[8]>>6 != 2 {
		t.Errorf("%x is no UUID of version 8", a)
	}
}

// hostile images: a field of the header (from its offset) or of the first
// descriptor is overwritten.
func TestReadRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sif")
	ours(t, path, Options{ID: testID, Time: when}, native("amd64"))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const table = 4096
	for name, change := range map[string]func(b []byte) []byte{
		"no magic":            func(b []byte) []byte { b[32] = 's'; return b },
		"other version":       func(b []byte) []byte { b[43] = '2'; return b },
		"many descriptors":    put64(88, 1<<40),
		"negative count":      put64(88, -1),
		"table outside":       put64(96, 1<<50),
		"table in the header": put64(96, 64),
		"table at minus one":  put64(96, -1),
		"table too short":     put64(104, 100),
		"object outside":      put64(table+17, 1<<40),
		"negative offset":     put64(table+17, -1),
		"object too long":     put64(table+25, 1<<62),
		"negative size":       put64(table+25, -1),
		"object over header":  put64(table+17, 0),
		"object over table":   put64(table+17, 4096),
		"objects overlap":     put64(table+25, 2000),
		"object zero":         put32(table+5, 0),
		"object twice":        put32(table+5, 2),
		"truncated data":      func(b []byte) []byte { return b[:len(b)-1] },
		"truncated table":     func(b []byte) []byte { return b[:5000] },
		"truncated header":    func(b []byte) []byte { return b[:100] },
		"empty":               func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := change(bytes.Clone(good))
			if f, err := Read(bytes.NewReader(b), int64(len(b))); err == nil {
				t.Errorf("accepted as %+v", f)
			} else if (name == "no magic" || name == "empty") != errors.Is(err, ErrNotSIF) {
				t.Error(err)
			}
		})
	}
}

func put64(at int, v int64) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[at:], uint64(v)); return b }
}

func put32(at int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
}

// A table that does not fit the first read is read by a second one.
func TestReadsALargeTable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sif")
	objects := make([]object, 300)
	for i := range objects {
		objects[i] = object{t: DataOCIBlob, data: string(rune('a' + i%26))}
	}
	theirs(t, path, objects, oracle.OptCreateWithDescriptorCapacity(308))
	compare(t, path, objects)
}

func TestDataIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sif")
	ours(t, path, Options{}, native("amd64"))
	f := readFile(t, path)
	d, ok := f.Find(DataGenericJSON, "oci-config.json")
	if !ok {
		t.Fatal("no oci-config.json")
	}
	if _, err := f.Data(d, d.Size-1); err == nil {
		t.Error("read more than the limit")
	}
	if b, err := io.ReadAll(f.Open(d)); err != nil || string(b) != "{}" {
		t.Errorf("%q %v", b, err)
	}
	if _, ok := f.Find(DataGenericJSON, "absent"); ok {
		t.Error("found an object that is not there")
	}
}

func FuzzRead(f *testing.F) {
	dir := f.TempDir()
	for name, objects := range map[string][]object{"native": native("amd64"), "oci": ociObjects} {
		path := filepath.Join(dir, name)
		ours(&testing.T{}, path, Options{Launch: LaunchScript, Capacity: 8}, objects)
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var sum int64
		for _, d := range img.Descriptors {
			sum += d.Size
			if _, err := img.Data(d, 1<<30); err != nil {
				t.Errorf("%v: %v", d, err)
			}
			d.Partition()
			d.Digest()
		}
		if sum > int64(len(b)) {
			t.Errorf("objects of %d bytes in a file of %d", sum, len(b))
		}
		img.Primary()
		if _, err := oracle.LoadContainer(oracle.NewBuffer(bytes.Clone(b))); err != nil {
			t.Errorf("the oracle refuses what we accept: %v", err)
		}
	})
}
