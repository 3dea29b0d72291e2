package disk

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/floelog/floe/tiering"
)

// Files are the operations on files that a cache is made of. Names are relative to its folder.
// Errors wrap those of package io/fs. All methods may be called concurrently.
type Files interface {
	// Create writes a file with that content, in the place of one that there is.
	Create(name string, content ...[]byte) error
	// Append writes at the end of a file that has size bytes.
	Append(name string, size int64, content ...[]byte) error
	// ReadAt fills b from position at of a file, or returns an error.
	ReadAt(name string, b []byte, at int64) error
	// Remove removes a file, if there is one.
	Remove(name string) error
}

// Directory returns the files of a folder.
func Directory(dir string) Files { return directory(dir) }

type directory string

const (
	blockSuffix = ".blk"
	tempSuffix  = ".tmp"
)

func (d directory) Create(name string, content ...[]byte) error {
	to := filepath.Join(string(d), name)
	temp := to + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		// Only the folder of this prefix may be missing, not the cache's own.
		if err = os.Mkdir(filepath.Dir(temp), 0o750); err == nil {
			f, err = os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
		}
	}
	if err != nil {
		return err
	}
	if err := errors.Join(write(f, 0, content), f.Close()); err != nil {
		return errors.Join(err, d.Remove(name+tempSuffix))
	}
	return os.Rename(temp, to)
}

func (d directory) Append(name string, size int64, content ...[]byte) error {
	f, err := os.OpenFile(filepath.Join(string(d), name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(write(f, size, content), f.Close())
}

func write(f *os.File, at int64, content [][]byte) error {
	for _, b := range content {
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
		at += int64(len(b))
	}
	return nil
}

func (d directory) ReadAt(name string, b []byte, at int64) error {
	f, err := os.Open(filepath.Join(string(d), name))
	if err != nil {
		return err
	}
	_, err = f.ReadAt(b, at)
	return errors.Join(err, f.Close())
}

func (d directory) Remove(name string) error {
	err := os.Remove(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fileName returns where a block is kept: <hash>/<session>-<seq>-<start>.blk.
func fileName(k key) string {
	h := uint32(2166136261) // FNV-1a
	for _, b := range k.segment.Session {
		h = (h ^ uint32(b)) * 16777619
	}
	for i := range 8 {
		h = (h ^ uint32(byte(k.segment.Seq>>(8*i)))) * 16777619
		h = (h ^ uint32(byte(uint64(k.start)>>(8*i)))) * 16777619
	}
	return fmt.Sprintf("%02x%c%s-%016x-%016x%s", byte(h^h>>8^h>>16), filepath.Separator, k.segment.Session, k.segment.Seq, k.start, blockSuffix)
}

// parseName reads what fileName wrote.
func parseName(name string) (key, bool) {
	base, ok := strings.CutSuffix(filepath.Base(name), blockSuffix)
	f := strings.Split(base, "-")
	if !ok || len(f) != 3 || len(f[1]) != 16 || len(f[2]) != 16 {
		return key{}, false
	}
	session, err := tiering.ParseSessionID(f[0])
	seq, err1 := strconv.ParseUint(f[1], 16, 64)
	start, err2 := strconv.ParseInt(f[2], 16, 64)
	k := key{tiering.SegmentID{Session: session, Seq: seq}, start}
	return k, err == nil && err1 == nil && err2 == nil && !k.segment.IsZero() && fileName(k) == name
}

// found is a block's file that was there when the cache was opened.
type found struct {
	key   key
	size  int64
	mtime int64
}

// scan looks through a cache's folder and returns its blocks, the oldest first. It removes
// what was being written when the last user ended, and touches nothing that is not a cache's.
func scan(dir string) ([]found, error) {
	var out []found
	prefixes, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, p := range prefixes {
		if b, err := hex.DecodeString(p.Name()); err != nil || len(b) != 1 || !p.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, p.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name := filepath.Join(p.Name(), f.Name())
			if whole, ok := strings.CutSuffix(name, tempSuffix); ok {
				if _, ok := parseName(whole); ok {
					err = os.Remove(filepath.Join(dir, name))
				}
			} else if k, ok := parseName(name); ok {
				var info fs.FileInfo
				if info, err = f.Info(); err == nil && info.Mode().IsRegular() {
					out = append(out, found{k, info.Size(), info.ModTime().UnixNano()})
				}
			}
			if err != nil {
				return nil, err
			}
		}
	}
	slices.SortStableFunc(out, func(a, b found) int { return cmp.Compare(a.mtime, b.mtime) })
	return out, nil
}

// lockName is the file by which a folder is known to be a cache's, and whose lock its user holds.
const lockName = "floe-cache.lock"

// claim takes a folder for this process, making it if need be.
func claim(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("%w (give a folder that can be made)", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%w (give a folder that can be read)", err)
	}
	if len(files) > 0 && !slices.ContainsFunc(files, func(f fs.DirEntry) bool { return f.Name() == lockName }) {
		return nil, fmt.Errorf("folder %s has files that are not of a cache (give an empty one)", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("%w (give a folder that can be written)", err)
	}
	free, err := lock(f)
	if err == nil && !free {
		err = fmt.Errorf("folder %s is in use by another process (give each agent its own)", dir)
	}
	if err == nil {
		// A file that is there already says nothing of new ones.
		probe := lockName + ".probe"
		if err = errors.Join(Directory(dir).Create(probe, []byte("x")), Directory(dir).Remove(probe)); err != nil {
			err = fmt.Errorf("%w (give a folder that can be written)", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
