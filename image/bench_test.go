package image

import "testing"

// BenchmarkOpen is what every start of a container costs here: opening the
// image and looking for a command in it.
func BenchmarkOpen(b *testing.B) {
	path := build(b, "docker-archive:"+writeTemp(b, "x.tar", tarOf(b, legacySave(b, greetings(b)))), BuildOptions{})
	b.ReportAllocs()
	for b.Loop() {
		img, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		r, err := img.Root()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Resolve(r, "/usr/share/big"); err != nil {
			b.Fatal(err)
		}
		if _, err := readFile(r, metaDir+"/runscript", maxMetaFile); err != nil {
			b.Fatal(err)
		}
		img.Close()
	}
}
