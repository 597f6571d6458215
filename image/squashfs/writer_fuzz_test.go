package squashfs_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/coracle-runtime/coracle/image/squashfs"
	"golang.org/x/sys/unix"
)

// FuzzWriter builds a tree as a random program says, and reads it back.
func FuzzWriter(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(static(seed, 40+int(seed)*60))
	}
	f.Fuzz(runTreeProgram)
}

func runTreeProgram(t *testing.T, program []byte) {
	p := &treeProgram{code: program}
	head := p.next()
	o := squashfs.WriterOptions{
		Compression: []squashfs.Compression{squashfs.Zstd, squashfs.Gzip}[head&1],
		BlockSize:   4096 << (head >> 1 & 3),
		Workers:     1 + int(head>>3&3),
	}
	var want map[string]facts
	b := writeImage(t, o, func(w *squashfs.Writer) *squashfs.Node {
		p.treeWriter = treeWriter{t: t, w: w, content: map[*squashfs.Data]string{}}
		root := p.build()
		want = p.facts(root)
		return root
	})
	r, err := squashfs.NewReader(bytes.NewReader(b), int64(len(b)), squashfs.ReaderOptions{})
	must(t, err)
	compareFacts(t, want, readerFacts(t, r))
}

// treeProgram makes files as its code says.
type treeProgram struct {
	treeWriter
	code     []byte
	nodes    []*squashfs.Node // that may be linked again
	contents [][]byte
}

func (p *treeProgram) next() byte {
	if len(p.code) == 0 {
		return 0
	}
	c := p.code[0]
	p.code = p.code[1:]
	return c
}

func (p *treeProgram) build() *squashfs.Node {
	root := writeDirNode(map[string]*squashfs.Node{})
	dirs := []*squashfs.Node{root}
	for len(p.code) > 0 {
		dir := dirs[len(dirs)-1]
		n := p.step(dir)
		switch {
		case n == nil && len(dirs) > 1:
			dirs = dirs[:len(dirs)-1]
		case n != nil:
			dir.Children[p.name(len(dir.Children))] = n
			if n.Children != nil {
				dirs = append(dirs, n)
			}
		}
	}
	return root
}

func (p *treeProgram) name(i int) string {
	c := p.next()
	return strings.Repeat(string(rune(c|0x40)), 1+int(c)%100) + fmt.Sprint(i)
}

// step makes one file, or nil to go up.
func (p *treeProgram) step(dir *squashfs.Node) *squashfs.Node {
	op := p.next()
	var n *squashfs.Node
	switch op % 10 {
	case 0:
		return nil
	case 1:
		n = writeDirNode(map[string]*squashfs.Node{})
	case 2:
		n = p.symlink(strings.Repeat("t", 1+int(p.next())*17))
	case 3:
		n = p.node([]uint32{unix.S_IFIFO, unix.S_IFSOCK}[op>>4&1])
	case 4:
		n = p.node([]uint32{unix.S_IFCHR, unix.S_IFBLK}[op>>4&1])
		n.Rdev = unix.Mkdev(uint32(p.next())*16, uint32(p.next())*4000)
	case 5:
		if len(p.nodes) > 0 {
			return p.nodes[int(p.next())%len(p.nodes)]
		}
		return nil
	case 6: // many at once, for large directories
		for i := range int(p.next()) * 4 {
			dir.Children[fmt.Sprintf("%d of many, with a name to fill blocks", i)] = p.node(unix.S_IFREG)
		}
		return nil
	default:
		n = p.file(p.contentOf(op))
	}
	n.Mode = n.Mode&unix.S_IFMT | uint32(op)<<4&0o7777
	n.UID, n.GID, n.ModTime = uint32(op)*0x1010101, uint32(p.next()), int64(op)<<24
	if op&0x80 != 0 {
		p.addAttributes(n)
	}
	if n.Children == nil {
		p.nodes = append(p.nodes, n)
	}
	return n
}

// contentOf is new content, or content like that of an earlier file.
func (p *treeProgram) contentOf(op byte) []byte {
	size, seed := int(p.next())*int(p.next())/2, uint64(p.next())
	var b []byte
	switch earlier := len(p.contents); {
	case op&0x10 != 0 && earlier > 0:
		b = slices.Clone(p.contents[int(seed)%earlier])
		if op&0x20 != 0 && len(b) > 0 {
			b[size%len(b)] ^= 1
		}
	case op&0x20 != 0:
		b = make([]byte, size)
	case op&0x40 != 0:
		b = static(seed, size)
	default:
		b = prose(seed, size)
	}
	if op&0xc0 == 0xc0 && len(b) > 0 { // a hole
		rnd := rand.New(rand.NewPCG(seed, 3))
		from := rnd.IntN(len(b))
		clear(b[from : from+rnd.IntN(len(b)-from)])
	}
	p.contents = append(p.contents, b)
	return b
}

func (p *treeProgram) addAttributes(n *squashfs.Node) {
	attributes := map[string][]byte{}
	for range p.next() % 4 {
		c := p.next()
		name := []string{"user.", "trusted.", "security.", "system."}[c&3] + fmt.Sprint(c>>2&7)
		sum := sha256.Sum256([]byte{c >> 5})
		attributes[name] = bytes.Repeat(sum[:], int(c&0x30))
	}
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		n.Xattrs = append(n.Xattrs, squashfs.Xattr{Name: name, Value: attributes[name]})
	}
}
