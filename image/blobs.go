package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// blobStore keeps what came from registries, by digest, and the digests that
// tags had. Without a directory it keeps nothing: small blobs are not found
// again and large ones are files without a name.
type blobStore struct{ dir, tempDir string }

func (b *blobStore) path(digest string) string { return filepath.Join(b.dir, blobName(digest)) }

// read returns a small blob, if it is there and whole.
func (b *blobStore) read(digest string) ([]byte, bool) {
	if b.dir == "" {
		return nil, false
	}
	raw, err := os.ReadFile(b.path(digest))
	return raw, err == nil && digestOf(raw) == digest
}

// write keeps a small blob.
func (b *blobStore) write(digest string, raw []byte) error {
	if b.dir == "" {
		return nil
	}
	return writeFile(b.path(digest), raw)
}

// open returns a large blob, if it is there with the right size.
func (b *blobStore) open(digest string, size int64) (*os.File, bool) {
	if b.dir == "" {
		return nil, false
	}
	f, err := os.Open(b.path(digest))
	if err != nil {
		return nil, false
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		f.Close()
		return nil, false
	}
	return f, true
}

// save keeps a large blob, whose content the caller's reader verifies. While
// it comes, grown is told of the file and how many bytes it holds; the file is
// then the callee's, to close. After an error it is told of no file.
func (b *blobStore) save(digest string, r io.Reader, grown func(*os.File, int64)) error {
	if b.dir == "" {
		f, err := temporaryFile(b.tempDir)
		if err == nil {
			err = copyGrowing(f, r, grown)
		}
		if err != nil {
			grown(nil, 0)
			f.Close()
		}
		return explainSpace(b.tempDir, err)
	}
	path := b.path(digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return explainSpace(b.dir, err)
	}
	n, err := createFile(path, 0o600)
	if err != nil {
		return explainSpace(b.dir, err)
	}
	err = copyGrowing(n.File, r, grown)
	if err == nil {
		err = n.commit(true)
	}
	if err != nil {
		grown(nil, 0)
		n.Close()
	}
	return explainSpace(b.dir, err)
}

// copyGrowing copies in large pieces and tells of each.
func copyGrowing(f *os.File, r io.Reader, grown func(*os.File, int64)) error {
	buf := make([]byte, 256<<10)
	for have, written := 0, int64(0); ; {
		n, readErr := r.Read(buf[have:])
		have += n
		if readErr == nil && have < len(buf) {
			continue
		}
		if _, err := f.Write(buf[:have]); err != nil {
			return err
		}
		written += int64(have)
		have = 0
		if readErr != nil && readErr != io.EOF {
			return readErr
		}
		grown(f, written)
		if readErr == io.EOF {
			return nil
		}
	}
}

// removeDamaged removes a blob that is not what its digest says, and tells
// whether it did.
func (b *blobStore) removeDamaged(digest string) bool {
	f, err := os.Open(b.path(digest))
	if b.dir == "" || err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err == nil && "sha256:"+hex.EncodeToString(h.Sum(nil)) == digest {
		return false
	}
	return os.Remove(b.path(digest)) == nil
}

// refPath is where a reference's digest is remembered.
func (b *blobStore) refPath(ref string) string {
	return filepath.Join(b.dir, "refs", strings.TrimPrefix(digestOf([]byte(ref)), "sha256:"))
}

// recall returns the digest that a reference had when it was last looked up.
func (b *blobStore) recall(ref string) (string, bool) {
	if b.dir == "" {
		return "", false
	}
	raw, err := os.ReadFile(b.refPath(ref))
	digest := strings.TrimSpace(string(raw))
	return digest, err == nil && isDigest(digest)
}

// remember keeps a reference's digest. That it cannot is no failure: the next
// run asks again.
func (b *blobStore) remember(ref, digest string) {
	if b.dir != "" {
		_ = writeFile(b.refPath(ref), []byte(digest+"\n"))
	}
}

// writeFile writes a private file at once, with its directories.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	n, err := createFile(path, 0o600)
	if err != nil {
		return err
	}
	defer n.Close()
	if _, err := n.Write(content); err != nil {
		return explainSpace(filepath.Dir(path), err)
	}
	if err := n.commit(true); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
