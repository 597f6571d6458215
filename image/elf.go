package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// maxLibraries bounds the search through DT_NEEDED.
const maxLibraries = 100

// sharedLibraries returns the files that a program needs to start: its
// interpreter, and the libraries that the dynamic linker would load. A static
// program needs none.
func sharedLibraries(program string) ([]string, error) {
	interpreter, machine, err := interpreterOf(program)
	if err != nil || interpreter == "" {
		return nil, err
	}
	dirs := libraryDirs(interpreter)
	found := []string{interpreter}
	queue := []string{program}
	for len(queue) > 0 {
		needed, err := libraryNames(queue[0])
		if err != nil {
			return nil, err
		}
		queue = queue[1:]
		for _, name := range needed {
			library, err := findLibrary(name, machine, dirs)
			if err != nil {
				return nil, err
			}
			if filepath.Base(interpreter) == name || slices.Contains(found, library) {
				continue
			}
			if len(found) >= maxLibraries {
				return nil, errors.New("too many libraries")
			}
			found = append(found, library)
			queue = append(queue, library)
		}
	}
	return found, nil
}

func interpreterOf(program string) (string, elf.Machine, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		path := make([]byte, p.Filesz)
		if _, err := p.ReadAt(path, 0); err != nil {
			return "", 0, err
		}
		return string(bytes.TrimRight(path, "\x00")), f.Machine, nil
	}
	return "", f.Machine, nil
}

func libraryNames(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ImportedLibraries()
}

// libraryDirs are the places where dynamic linkers look without a cache, and
// the one where this linker lies, which is where NixOS has the libraries.
func libraryDirs(interpreter string) []string {
	dirs := []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	multiarch, _ := filepath.Glob("/usr/lib/*-linux-gnu*") // the pattern is well-formed
	for _, d := range multiarch {
		dirs = append(dirs, strings.TrimPrefix(d, "/usr"), d)
	}
	if real, err := filepath.EvalSymlinks(interpreter); err == nil {
		dirs = append(dirs, filepath.Dir(real))
	}
	return dirs
}

func findLibrary(name string, machine elf.Machine, dirs []string) (string, error) {
	for _, d := range dirs {
		path := filepath.Join(d, name)
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		fits := f.Machine == machine // hosts may have those of several
		f.Close()
		if fits {
			return path, nil
		}
	}
	return "", fmt.Errorf("library %s is nowhere in %s", name, strings.Join(dirs, ":"))
}
