package sif

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Layout of the file, as in github.com/sylabs/sif/v2/pkg/sif: sif.go,
// descriptor.go and create.go. All numbers are little endian and unaligned.
const (
	launchLen        = 32
	magicOffset      = launchLen
	headerSize       = 128
	descriptorOffset = 4096 // where the table starts in files of any writer known
	descriptorSize   = 585
	nameLen          = 128
	extraLen         = 384
	groupFlag        = 0xf0000000 // set in group numbers, and in links to groups

	partitionAlign  = 4096
	defaultCapacity = 48
	// maxDescriptors bounds the table of a file that is read, to 4.8 MB. An
	// OCI-SIF has one descriptor per layer and a handful more.
	maxDescriptors = 8192
)

// LaunchScript makes an executable SIF start run-singularity with itself.
const LaunchScript = "#!/usr/bin/env run-singularity\n"

var (
	magic   = [10]byte{'S', 'I', 'F', '_', 'M', 'A', 'G', 'I', 'C', 0}
	version = [3]byte{'0', '1', 0}
)

// DataType tells what a data object is.
type DataType int32

// The data types that the format knows.
const (
	DataDeffile DataType = iota + 0x4001
	DataEnvVar
	DataLabels
	DataPartition
	DataSignature
	DataGenericJSON
	DataGeneric
	DataCryptoMessage
	DataSBOM
	DataOCIRootIndex
	DataOCIBlob
)

// String names the type as `singularity sif list` does.
func (t DataType) String() string {
	names := [...]string{"Def.FILE", "Env.Vars", "JSON.Labels", "FS", "Signature", "JSON.Generic", "Generic/Raw",
		"Cryptographic Message", "SBOM", "OCI.RootIndex", "OCI.Blob"}
	return nameOf(names[:], int32(t-DataDeffile))
}

// FSType is the file system in a partition.
type FSType int32

// The file systems that the format knows.
const (
	FSSquashfs FSType = iota + 1
	FSExt3
	FSArchive
	FSRaw
	FSEncryptedSquashfs
)

func (t FSType) String() string {
	names := [...]string{"Squashfs", "Ext3", "Archive", "Raw", "Encrypted squashfs"}
	return nameOf(names[:], int32(t-1))
}

// PartType is the use of a partition.
type PartType int32

// The uses that the format knows. An image has one primary system partition,
// its root file system, at most.
const (
	PartSystem PartType = iota + 1
	PartPrimary
	PartData
	PartOverlay
)

func (t PartType) String() string {
	names := [...]string{"System", "*System", "Data", "Overlay"}
	return nameOf(names[:], int32(t-1))
}

func nameOf(names []string, i int32) string {
	if i < 0 || int(i) >= len(names) {
		return "Unknown"
	}
	return names[i]
}

// architectures are GOARCH names by their number in the file, which is written
// as two decimal digits.
var architectures = [...]string{1: "386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "mips", "mipsle", "mips64",
	"mips64le", "s390x", "riscv64", "loong64"}

// UnknownArch is the architecture of an image without a primary partition, or
// with one that this package has no name for.
const UnknownArch = "unknown"

func archName(code [3]byte) string {
	for i, name := range architectures {
		if i > 0 && code == archDigits(i) {
			return name
		}
	}
	return UnknownArch
}

func archCode(name string) ([3]byte, error) {
	for i, n := range architectures {
		if i > 0 && n == name {
			return archDigits(i), nil
		}
	}
	return archDigits(0), fmt.Errorf("architecture %q has no code in the format", name)
}

func archDigits(i int) [3]byte { return [3]byte{'0' + byte(i/10), '0' + byte(i%10), 0} }

// header is the file's first 128 bytes.
type header struct {
	Launch            [launchLen]byte
	Magic             [10]byte
	Version           [3]byte
	Arch              [3]byte
	ID                [16]byte
	Created, Modified int64 // seconds since the epoch
	Free, Total       int64 // descriptors
	TableOffset       int64
	TableSize         int64
	DataOffset        int64
	DataSize          int64
}

// Descriptor describes one data object.
type Descriptor struct {
	Type              DataType
	ID                uint32 // from 1, unique in a file
	Group             uint32 // 0: in none
	Link              uint32 // the object, or the group, that this one is about; 0: none
	LinkGroup         bool
	Offset, Size      int64 // bytes
	Created, Modified time.Time
	Name              string         // at most 128 bytes
	Extra             [extraLen]byte // by type: see Partition and Digest
}

// Partition is what a descriptor of type DataPartition tells beyond the rest.
type Partition struct {
	FS   FSType
	Type PartType
	Arch string // a GOARCH name or UnknownArch
}

// Partition decodes Extra.
func (d Descriptor) Partition() (Partition, error) {
	if d.Type != DataPartition {
		return Partition{}, fmt.Errorf("object %d is no partition but %v", d.ID, d.Type)
	}
	return Partition{
		FS:   FSType(binary.LittleEndian.Uint32(d.Extra[0:])),
		Type: PartType(binary.LittleEndian.Uint32(d.Extra[4:])),
		Arch: archName([3]byte(d.Extra[8:11])),
	}, nil
}

// SetPartition encodes p into Extra.
func (d *Descriptor) SetPartition(p Partition) error {
	code, err := archCode(p.Arch)
	if err != nil {
		return err
	}
	d.Extra = [extraLen]byte{}
	binary.LittleEndian.PutUint32(d.Extra[0:], uint32(p.FS))
	binary.LittleEndian.PutUint32(d.Extra[4:], uint32(p.Type))
	copy(d.Extra[8:], code[:])
	return nil
}

// Digest is the digest ("sha256:…") of a blob or root index of an OCI-SIF.
func (d Descriptor) Digest() (string, error) {
	if d.Type != DataOCIBlob && d.Type != DataOCIRootIndex {
		return "", fmt.Errorf("object %d is no OCI blob but %v", d.ID, d.Type)
	}
	return text(d.Extra[:]), nil
}

// SetDigest stores the digest of a blob or root index of an OCI-SIF.
func (d *Descriptor) SetDigest(digest string) error {
	if len(digest) > extraLen {
		return fmt.Errorf("digest of %d bytes is too long", len(digest))
	}
	d.Extra = [extraLen]byte{}
	copy(d.Extra[:], digest)
	return nil
}

func (d Descriptor) end() int64 { return d.Offset + d.Size }

func (d Descriptor) String() string {
	if d.Name != "" {
		return fmt.Sprintf("object %d (%v, %q)", d.ID, d.Type, d.Name)
	}
	return fmt.Sprintf("object %d (%v)", d.ID, d.Type)
}

// decodeDescriptor reads an entry of the table. It is on the way of every
// start, hence not left to encoding/binary's reflection (8 µs an entry).
func decodeDescriptor(b []byte) Descriptor {
	le := binary.LittleEndian
	link := le.Uint32(b[13:])
	return Descriptor{
		Type: DataType(le.Uint32(b[0:])), ID: le.Uint32(b[5:]), Group: le.Uint32(b[9:]) &^ groupFlag,
		Link: link &^ groupFlag, LinkGroup: link&groupFlag == groupFlag,
		Offset: int64(le.Uint64(b[17:])), Size: int64(le.Uint64(b[25:])),
		Created: time.Unix(int64(le.Uint64(b[41:])), 0), Modified: time.Unix(int64(le.Uint64(b[49:])), 0),
		Name: text(b[73 : 73+nameLen]), Extra: [extraLen]byte(b[73+nameLen:]),
	}
}

// encode makes an entry of the table. padding is the number of bytes left free
// before the object.
func (d Descriptor) encode(padding int64) ([descriptorSize]byte, error) {
	var b [descriptorSize]byte
	if len(d.Name) > nameLen {
		return b, fmt.Errorf("name %q is longer than %d bytes", d.Name, nameLen)
	}
	if d.Group&groupFlag != 0 || d.Link&groupFlag != 0 {
		return b, errors.New("group or link number is too large")
	}
	link := d.Link
	if d.LinkGroup {
		link |= groupFlag
	}
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(d.Type))
	b[4] = 1 // in use
	le.PutUint32(b[5:], d.ID)
	le.PutUint32(b[9:], d.Group|groupFlag)
	le.PutUint32(b[13:], link)
	le.PutUint64(b[17:], uint64(d.Offset))
	le.PutUint64(b[25:], uint64(d.Size))
	le.PutUint64(b[33:], uint64(padding+d.Size))
	le.PutUint64(b[41:], uint64(d.Created.Unix()))
	le.PutUint64(b[49:], uint64(d.Modified.Unix()))
	// 57 to 73: a user and a group ID, no longer used
	copy(b[73:73+nameLen], d.Name)
	copy(b[73+nameLen:], d.Extra[:])
	return b, nil
}

// text is a field's content up to its first NUL.
func text(field []byte) string {
	before, _, _ := bytes.Cut(field, []byte{0})
	return strings.Clone(string(before))
}
