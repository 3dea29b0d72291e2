package disk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/cache/disk"
)

const block = 128 << 10

func id(seq uint64) tiering.SegmentID {
	return tiering.SegmentID{Session: tiering.SessionID{1, 2, 3}, Seq: seq}
}

func piece(seq uint64, lo, hi int64) cache.Piece {
	return cache.Piece{Segment: id(seq), Position: tiering.Position(lo), Length: hi - lo}
}

// content returns the bytes of a segment, whatever they are.
func content(seq uint64, lo, hi int64) []byte {
	b := make([]byte, hi)
	_, _ = rand.NewChaCha8([32]byte{byte(seq), byte(seq >> 8)}).Read(b) // never fails
	return b[lo:]
}

// lines counts the lines of a log.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	return len(b), nil
}

func (l *lines) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

func open(t *testing.T, opts disk.Options) (*disk.Cache, *lines) {
	t.Helper()
	log := &lines{}
	if opts.Bytes == 0 {
		opts.Bytes = disk.MinBytes
	}
	c, err := disk.Open(opts, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return c, log
}

func closed(t *testing.T, c *disk.Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// bubble runs a test on virtual time, which stands still while files are read and written: so
// that no Get gives up because the machine is busy.
func bubble(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// put hands a piece over and waits until it is written.
func put(t *testing.T, c *disk.Cache, seq uint64, lo, hi int64) {
	t.Helper()
	c.Put(0, piece(seq, lo, hi), content(seq, lo, hi))
	synctest.Wait()
}

// get reports whether a piece is there, and checks it.
func get(t *testing.T, c *disk.Cache, seq uint64, lo, hi int64) bool {
	t.Helper()
	has := c.Has(0, piece(seq, lo, hi))
	b, ok := c.Get(t.Context(), 0, piece(seq, lo, hi))
	if ok && !bytes.Equal(b, content(seq, lo, hi)) {
		t.Errorf("segment %d, %d to %d: other bytes", seq, lo, hi)
	}
	if ok && !has {
		t.Errorf("segment %d, %d to %d is there, and was not said to be", seq, lo, hi)
	}
	return ok
}

func TestBlocksGrow(t *testing.T) { synctest.Test(t, blocksGrow) }

func blocksGrow(t *testing.T) {
	c, _ := open(t, disk.Options{Dir: t.TempDir()})
	defer closed(t, c)
	for _, step := range []struct {
		lo, hi int64 // put
		there  int64 // up to where the block is there then
	}{{0, 1000, 1000}, {1000, 5000, 5000}, {7000, 8000, 5000}, {0, 3000, 5000}, {5000, 5001, 5001}, {0, block, block}, {0, 10, block}} {
		put(t, c, 1, step.lo, step.hi)
		for _, hi := range []int64{1, 999, 1000, 1001, 5000, 5001, 8000, block} {
			for _, lo := range []int64{0, 500, 1000, 4999} {
				if lo < hi && get(t, c, 1, lo, hi) != (hi <= step.there) {
					t.Errorf("after %d to %d: %d to %d there: %v", step.lo, step.hi, lo, hi, hi > step.there)
				}
			}
		}
	}
	if get(t, c, 2, 0, 10) {
		t.Error("a block is there that nobody put")
	}
	if s := c.Stats(); s.Blocks != 1 || s.Skipped != 3 || s.Corrupt != 0 || s.GivenUp {
		t.Errorf("%+v", s)
	}
}

func TestBlocksSurviveARestart(t *testing.T) { synctest.Test(t, blocksSurviveARestart) }

func blocksSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, disk.Options{Dir: dir})
	put(t, c, 1, 0, 1000)
	put(t, c, 1, 1000, 3000)
	put(t, c, 2, 0, block)
	closed(t, c)
	c, _ = open(t, disk.Options{Dir: dir})
	if !get(t, c, 1, 500, 2000) || !get(t, c, 2, 0, block) || get(t, c, 1, 0, 3001) || get(t, c, 3, 0, 1) {
		t.Error("not what there was before")
	}
	put(t, c, 1, 3000, 4000) // goes on where it was
	closed(t, c)
	c, _ = open(t, disk.Options{Dir: dir})
	defer closed(t, c)
	if !get(t, c, 1, 0, 4000) {
		t.Error("what was appended after a restart is lost")
	}
	if s := c.Stats(); s.Corrupt != 0 || s.Blocks != 2 {
		t.Errorf("%+v", s)
	}
}

func TestRoomIsMadeForNewBlocks(t *testing.T) { synctest.Test(t, roomIsMadeForNewBlocks) }

func roomIsMadeForNewBlocks(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, disk.Options{Dir: dir})
	const n = 400 // of 128 KiB each: three times as many as fit
	for seq := range uint64(n) {
		put(t, c, seq+1, 0, block)
		if seq >= 20 && !get(t, c, 5, 0, block) { // read again and again
			t.Fatalf("a block that is read was gone when %d had been put", seq+1)
		}
		if s := c.Stats(); s.Bytes > s.Capacity {
			t.Fatalf("%+v", s)
		}
	}
	if get(t, c, 1, 0, block) || !get(t, c, n, 0, block) {
		t.Error("the oldest is there, or the newest is not")
	}
	closed(t, c)
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err != nil || size > disk.MinBytes {
		t.Errorf("%d bytes of files, %v", size, err)
	}
	// A smaller cache takes over what fits.
	c, _ = open(t, disk.Options{Dir: dir, Bytes: disk.MinBytes})
	defer closed(t, c)
	if s := c.Stats(); s.Blocks < 100 || s.Bytes > s.Capacity {
		t.Errorf("%+v", s)
	}
}

// files returns the block files of a folder.
func files(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "*", "*.blk"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDamagedFilesAreNotServed(t *testing.T) {
	change := func(f func(b []byte) []byte) func(t *testing.T, name string) {
		return func(t *testing.T, name string) {
			b, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(name, f(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name    string
		damage  func(t *testing.T, name string)
		restart bool
		left    int64 // of the block
	}{
		{"a flipped bit", change(func(b []byte) []byte { b[100] ^= 1; return b }), false, 0},
		{"a flipped bit, found after a restart", change(func(b []byte) []byte { b[100] ^= 1; return b }), true, 0},
		{"a flipped bit in a header", change(func(b []byte) []byte { b[25] ^= 1; return b }), true, 0},
		{"cut off in the first frame", change(func(b []byte) []byte { return b[:500] }), true, 0},
		{"cut off in the second", change(func(b []byte) []byte { return b[:1500] }), true, 1000},
		{"cut off while it is open", change(func(b []byte) []byte { return b[:500] }), false, 0},
		{"empty", change(func([]byte) []byte { return nil }), true, 0},
		{"gone", func(t *testing.T, name string) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}, false, 0},
		{"another block's", func(t *testing.T, name string) {
			other, err := os.ReadFile(files(t, filepath.Dir(filepath.Dir(name)))[0])
			if err == nil {
				err = os.WriteFile(name, bytes.Replace(other, []byte{1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte("another session!"), 1), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, true, 0},
	} {
		t.Run(tc.name, bubble(func(t *testing.T) {
			dir := t.TempDir()
			c, log := open(t, disk.Options{Dir: dir})
			put(t, c, 1, 0, 1000)
			put(t, c, 1, 1000, 3000)
			if tc.restart {
				closed(t, c)
			}
			tc.damage(t, files(t, dir)[0])
			if tc.restart {
				c, log = open(t, disk.Options{Dir: dir})
			}
			defer func() { closed(t, c) }()
			if get(t, c, 1, 0, 3000) {
				t.Error("a damaged block was served")
			}
			if tc.left > 0 && !get(t, c, 1, 0, tc.left) {
				t.Error("what was whole is gone")
			}
			if tc.left == 0 && c.Has(0, piece(1, 0, 1)) {
				t.Error("a damaged block stayed")
			}
			put(t, c, 1, 0, 3000)
			if !get(t, c, 1, 0, 3000) {
				t.Error("the block cannot be put again")
			}
			if s := c.Stats(); s.GivenUp || len(log.seen()) > 0 {
				t.Errorf("one file ended the cache: %+v %q", s, log.seen())
			}
		}))
	}
}

func TestTheCacheEndsWhenManyFilesAreDamaged(t *testing.T) {
	synctest.Test(t, theCacheEndsWhenManyFilesAreDamaged)
}

func theCacheEndsWhenManyFilesAreDamaged(t *testing.T) {
	dir := t.TempDir()
	c, log := open(t, disk.Options{Dir: dir})
	defer closed(t, c)
	for seq := range uint64(40) {
		put(t, c, seq, 0, 1000)
	}
	for _, name := range files(t, dir) {
		if err := os.WriteFile(name, make([]byte, 2000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range uint64(40) {
		if get(t, c, seq, 0, 1000) {
			t.Errorf("block %d was served", seq)
		}
	}
	givenUp(t, c, log, "16 faults")
	empty(t, dir)
}

// A bad file now and then, among thousands of good reads, does not end the cache.
func TestFaultsAreForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c, log := open(t, disk.Options{Dir: dir})
		defer closed(t, c)
		put(t, c, 0, 0, 100)
		spoiled := func() {
			put(t, c, 1, 0, 1000)
			for _, name := range files(t, dir) {
				if info, err := os.Stat(name); err != nil || info.Size() > 1000 {
					if err := os.WriteFile(name, make([]byte, 2000), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			if get(t, c, 1, 0, 1000) {
				t.Error("a bad block was served")
			}
		}
		for range 15 {
			spoiled()
		}
		for range 2 * 4096 {
			if !get(t, c, 0, 0, 100) {
				t.Fatal("a good block was not served")
			}
		}
		spoiled()
		spoiled()
		if s := c.Stats(); s.GivenUp || s.Corrupt != 17 || len(log.seen()) > 0 {
			t.Errorf("%+v, %q", s, log.seen())
		}
		spoiled() // the 16th that is not forgiven
		givenUp(t, c, log, "16 faults")
	})
}

// empty expects that no block is left in a folder.
func empty(t *testing.T, dir string) {
	t.Helper()
	synctest.Wait()
	if f := files(t, dir); len(f) > 0 {
		t.Errorf("%d files are left", len(f))
	}
}

// givenUp expects the cache to have ended, with one line in the log.
func givenUp(t *testing.T, c *disk.Cache, log *lines, why string) {
	t.Helper()
	if s := c.Stats(); !s.GivenUp || s.Blocks != 0 || s.Bytes != 0 || s.QueuedBytes != 0 {
		t.Errorf("%+v", s)
	}
	if l := log.seen(); len(l) != 1 || !strings.Contains(l[0], why) {
		t.Errorf("log %q, want one line with %q", l, why)
	}
	c.Put(0, piece(77, 0, 100), content(77, 0, 100))
	if get(t, c, 77, 0, 100) {
		t.Error("it goes on")
	}
}

// broken are files of which some operations fail or hang.
type broken struct {
	disk.Files
	mu           sync.Mutex
	write, read  error
	hang         chan struct{} // reads and writes wait for it
	removeFailed bool
}

func (b *broken) fault(err *error) error {
	b.mu.Lock()
	hang, e := b.hang, *err
	b.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return e
}

func (b *broken) set(write, read error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write, b.read = write, read
}

func (b *broken) Create(name string, content ...[]byte) error {
	if err := b.fault(&b.write); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return b.Files.Create(name, content...)
}

func (b *broken) Append(name string, size int64, content ...[]byte) error {
	if err := b.fault(&b.write); err != nil {
		return &fs.PathError{Op: "write", Path: name, Err: err}
	}
	return b.Files.Append(name, size, content...)
}

func (b *broken) ReadAt(name string, p []byte, at int64) error {
	if err := b.fault(&b.read); err != nil {
		return &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b.Files.ReadAt(name, p, at)
}

func (b *broken) Remove(name string) error {
	if b.removeFailed {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.EROFS}
	}
	return b.Files.Remove(name)
}

// RELIABILITY F31: the cache ends, and says so once; nobody hears of it in any other way.
func TestTroubleOfTheDiskEndsTheCache(t *testing.T) {
	for _, tc := range []struct {
		name        string
		write, read error
		why         string
	}{
		{"full", syscall.ENOSPC, nil, "no space left"},
		{"over quota", syscall.EDQUOT, nil, "quota"},
		{"read-only", syscall.EROFS, nil, "read-only"},
		{"cannot be written", fs.ErrPermission, nil, "permission"},
		{"unreadable", nil, syscall.EIO, "input/output error"},
		{"cannot be opened", nil, fs.ErrPermission, "permission"},
	} {
		for _, removes := range []bool{true, false} {
			t.Run(fmt.Sprint(tc.name, ", files can be removed: ", removes), bubble(func(t *testing.T) {
				dir := t.TempDir()
				f := &broken{Files: disk.Directory(dir), removeFailed: !removes}
				c, log := open(t, disk.Options{Dir: dir, Files: f})
				defer closed(t, c)
				put(t, c, 1, 0, 1000)
				put(t, c, 2, 0, 1000)
				f.set(tc.write, tc.read)
				if tc.write != nil {
					put(t, c, 1, 1000, 2000)
				} else if get(t, c, 1, 0, 1000) {
					t.Error("it was read")
				}
				f.set(nil, nil)
				givenUp(t, c, log, tc.why)
				if removes {
					empty(t, dir)
				}
			}))
		}
	}
}

func TestTheFolderVanishes(t *testing.T) { synctest.Test(t, theFolderVanishes) }

func theFolderVanishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, log := open(t, disk.Options{Dir: dir})
	defer closed(t, c)
	put(t, c, 1, 0, 1000)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if get(t, c, 1, 0, 1000) {
		t.Error("a block of a folder that is gone was served")
	}
	put(t, c, 2, 0, 1000)
	givenUp(t, c, log, "no such file")
}

// A file that somebody removes is one block less, also for the writer that was about to go on with it.
func TestOneFileVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c, _ := open(t, disk.Options{Dir: dir})
		defer closed(t, c)
		put(t, c, 1, 0, 1000)
		for _, f := range files(t, dir) {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		put(t, c, 1, 1000, 2000)
		put(t, c, 2, 0, 1000)
		if c.Stats().GivenUp || get(t, c, 1, 0, 1000) || !get(t, c, 2, 0, 1000) {
			t.Errorf("after one file vanished: %+v", c.Stats())
		}
		put(t, c, 1, 0, 1000)
		put(t, c, 1, 1000, 2000)
		if !get(t, c, 1, 0, 2000) {
			t.Error("its block cannot be put again")
		}
	})
}

// A disk that does not answer holds nobody up for long.
func TestTheDiskHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := &broken{Files: disk.Directory(dir)}
		c, log := open(t, disk.Options{Dir: dir, Files: f})
		for seq := range uint64(3) {
			c.Put(0, piece(seq, 0, 1000), content(seq, 0, 1000))
			synctest.Wait()
		}
		hang := make(chan struct{})
		f.mu.Lock()
		f.hang = hang
		f.mu.Unlock()
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				start := time.Now()
				if _, ok := c.Get(t.Context(), 0, piece(uint64(i%3), 0, 1000)); ok {
					t.Error("it was read")
				}
				if took := time.Since(start); took != 500*time.Millisecond {
					t.Errorf("Get took %v", took)
				}
			})
		}
		start := time.Now()
		for range 100 { // no fetch waits for a write
			c.Put(0, piece(9, 0, 1<<20), content(9, 0, 1<<20))
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("Put took %v", took)
		}
		if s := c.Stats(); s.QueuedBytes > disk.DefaultQueueBytes || s.Skipped == 0 {
			t.Errorf("%+v", s)
		}
		wg.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, ok := c.Get(ctx, 0, piece(1, 0, 1000)); ok {
			t.Error("it was read")
		}
		for range 8 {
			c.Get(t.Context(), 0, piece(1, 0, 1000))
		}
		if s := c.Stats(); s.Slow < 30 {
			t.Errorf("%+v", s)
		}
		if err := c.Close(); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("Close: %v", err)
		}
		close(hang)
		synctest.Wait()
		if l := log.seen(); len(l) > 1 {
			t.Errorf("log %q", l)
		}
	})
}

func TestDroppedBlocksStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := &broken{Files: disk.Directory(dir)}
		c, _ := open(t, disk.Options{Dir: dir, Files: f})
		c.Put(0, piece(1, 0, 1000), content(1, 0, 1000))
		synctest.Wait()
		c.Drop(id(1), 0)
		if c.Has(0, piece(1, 0, 1)) {
			t.Error("a dropped block is there")
		}
		hang := make(chan struct{})
		f.mu.Lock()
		f.hang = hang
		f.mu.Unlock()
		c.Put(0, piece(2, 0, 1000), make([]byte, 1000)) // under way when it is dropped
		synctest.Wait()
		c.Put(0, piece(2, 1000, 2000), make([]byte, 1000)) // waits
		c.Drop(id(2), 0)
		f.mu.Lock()
		f.hang = nil
		f.mu.Unlock()
		close(hang)
		synctest.Wait()
		if n := len(files(t, dir)); n != 0 || c.Has(0, piece(2, 0, 1)) {
			t.Errorf("%d files are left", n)
		}
		c.Put(0, piece(2, 0, 1000), content(2, 0, 1000))
		synctest.Wait()
		if !get(t, c, 2, 0, 1000) {
			t.Error("a dropped block cannot be put again")
		}
		closed(t, c)
	})
}

func TestFoldersThatCannotBeACache(t *testing.T) { synctest.Test(t, foldersThatCannotBeACache) }

func foldersThatCannotBeACache(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	c, _ := open(t, disk.Options{Dir: used})
	for _, tc := range []struct {
		dir  string
		size int64
		want string
	}{
		{file, disk.MinBytes, "not a directory"},
		{dir, disk.MinBytes, "give an empty one"},
		{used, disk.MinBytes, "in use by another process"},
		{filepath.Join(file, "below"), disk.MinBytes, "give a folder that can be made"},
		{t.TempDir(), 1000, "too few"},
	} {
		c, err := disk.Open(disk.Options{Dir: tc.dir, Bytes: tc.size}, log)
		if err == nil {
			closed(t, c)
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %q", tc.dir, err, tc.want)
		}
	}
	closed(t, c)
	c, _ = open(t, disk.Options{Dir: used}) // free again
	closed(t, c)
	if os.Getuid() != 0 {
		locked := t.TempDir()
		if err := os.Chmod(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Open(disk.Options{Dir: locked, Bytes: disk.MinBytes}, log); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("a folder that cannot be written: %v", err)
		}
	}
}

// Files that are not a cache's are left alone, and what was half written is removed.
func TestOnlyItsOwnFilesAreTouched(t *testing.T) { synctest.Test(t, onlyItsOwnFilesAreTouched) }

func onlyItsOwnFilesAreTouched(t *testing.T) {
	dir := t.TempDir()
	c, _ := open(t, disk.Options{Dir: dir})
	put(t, c, 1, 0, 1000)
	closed(t, c)
	own := files(t, dir)[0]
	foreign := []string{
		filepath.Join(dir, "notes.txt"), filepath.Join(filepath.Dir(own), "a.tmp"), filepath.Join(filepath.Dir(own), "x.blk"),
		filepath.Join(filepath.Dir(own), strings.Repeat("0", 32)+"-"+strings.Repeat("1", 16)+"-"+strings.Repeat("0", 16)+".blk"),
	}
	for _, name := range append(foreign, own+".tmp") {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _ = open(t, disk.Options{Dir: dir})
	defer closed(t, c)
	if s := c.Stats(); s.Blocks != 1 || !get(t, c, 1, 0, 1000) {
		t.Errorf("%+v", s)
	}
	for _, name := range foreign {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(own + ".tmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was half written is left: %v", err)
	}
}
