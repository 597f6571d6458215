// Command probe reads a tree of files inside a container or a mount and prints
// the seconds it took; bench runs it under every peer alike.
//
// Usage: probe read|linger DIR READERS, probe random DIR COUNT, probe list DIR. After
// reading, linger prints a line and stays until its standard input ends.
package main

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: probe read|random|list DIR [N]")
	}
	n := 1
	if len(args) > 2 {
		var err error
		if n, err = strconv.Atoi(args[2]); err != nil {
			return err
		}
	}
	start := time.Now()
	var err error
	switch args[0] {
	case "read":
		err = read(args[1], n)
	case "random":
		err = random(args[1], n, &start)
	case "list":
		err = list(args[1])
	case "linger":
		if err = read(args[1], n); err == nil {
			fmt.Println("read")
			_, err = io.Copy(io.Discard, os.Stdin)
		}
	default:
		err = fmt.Errorf("unknown task %q", args[0])
	}
	if err == nil {
		fmt.Printf("%.6f\n", time.Since(start).Seconds())
	}
	return err
}

// files lists the regular files of dir's file system.
func files(dir string) ([]string, error) {
	var root syscall.Stat_t
	if err := syscall.Lstat(dir, &root); err != nil {
		return nil, err
	}
	var all []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if d != nil && d.IsDir() {
				return nil // unreadable for this user under every peer
			}
			return err
		}
		if d.IsDir() {
			var st syscall.Stat_t
			if syscall.Lstat(p, &st) != nil || st.Dev != root.Dev {
				return filepath.SkipDir
			}
		}
		if d.Type().IsRegular() {
			all = append(all, p)
		}
		return nil
	})
	return all, err
}

func read(dir string, readers int) error {
	all, err := files(dir)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var next sync.Mutex
	i := 0
	for range readers {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for {
				next.Lock()
				j := i
				i++
				next.Unlock()
				if j >= len(all) {
					return
				}
				if f, err := os.Open(all[j]); err == nil {
					for {
						if _, err := f.Read(buf); err != nil {
							break
						}
					}
					f.Close()
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// random reads 4 KiB at count random places of the files above 1 MiB; the clock
// starts after they were found.
func random(dir string, count int, start *time.Time) error {
	all, err := files(dir)
	if err != nil {
		return err
	}
	type target struct {
		f    *os.File
		size int64
	}
	var targets []target
	for _, p := range all {
		st, err := os.Stat(p)
		if err != nil || st.Size() < 1<<20 {
			continue
		}
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		defer f.Close()
		const fadviseRandom = 1
		syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, fadviseRandom, 0, 0)
		targets = append(targets, target{f, st.Size()})
	}
	if len(targets) == 0 {
		return fmt.Errorf("no file above 1 MiB below %s", dir)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	*start = time.Now()
	for range count {
		t := targets[rng.IntN(len(targets))]
		if _, err := t.f.ReadAt(buf, rng.Int64N(t.size-4096)&^4095); err != nil {
			return err
		}
	}
	return nil
}

// list does what find -ls does: every entry's attributes.
func list(dir string) error {
	var root syscall.Stat_t
	if err := syscall.Lstat(dir, &root); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		if d.IsDir() && st.Dev != root.Dev {
			return filepath.SkipDir
		}
		return nil
	})
}
