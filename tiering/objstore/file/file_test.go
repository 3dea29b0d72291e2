package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/file"
	"github.com/floelog/floe/tiering/objstore/objstoretest"
)

func open(t testing.TB, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return open(t, t.TempDir()) })
}

func TestConformanceWithoutUnnamedFiles(t *testing.T) {
	objstoretest.Run(t, func(t *testing.T) objstore.Store { return openNamed(t, t.TempDir()) })
}

func openNamed(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.OpenNamed(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestObjectsArePlainFiles(t *testing.T) {
	dir := t.TempDir()
	body := objstoretest.Body(1, 3<<20+17, 1000)
	if err := open(t, dir).Put(t.Context(), "seg/00/x", body); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "seg/00/x"))
	if err != nil || string(data) != string(body.Bytes()) {
		t.Errorf("file holds %d bytes, %v; want the object's %d", len(data), err, body.Size())
	}
	info, err := open(t, dir).Head(t.Context(), "seg/00/x")
	if err != nil || info.CRC32C != body.CRC32C() {
		t.Errorf("head after reopening: %+v, %v", info, err)
	}
}

func TestHeadKeepsTheSumOfWhatWasPut(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	body := objstoretest.Body(1, 1000, 1000)
	if err := s.Put(t.Context(), "x", body); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "x")
	if !keepsSum(t, name) {
		t.Skip("the file system has no extended attributes")
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{body[0][500] ^ 1}, 500); err != nil {
		t.Fatal(err)
	}
	damaged, err := s.GetRange(t.Context(), "x", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Head(t.Context(), "x")
	if err != nil || info.CRC32C == (objstore.Body{damaged}).CRC32C() || info.CRC32C != body.CRC32C() {
		t.Errorf("head %+v, %v: the damage does not show", info, err)
	}
}

func TestHeadComputesAMissingSum(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	body := objstoretest.Body(2, 3<<20, 1<<20)
	if err := os.WriteFile(filepath.Join(dir, "copied"), body.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := s.Head(t.Context(), "copied")
	if err != nil || !info.HasCRC || info.CRC32C != body.CRC32C() {
		t.Errorf("head %+v, %v; want CRC-32C %08x", info, err, body.CRC32C())
	}
}

func TestOpenRemovesLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"~tmp", "seg/00/dead", "seg/01/live", "lost+found"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"~tmp/put-123", "seg/01/live/7"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	for name, want := range map[string]bool{
		"~tmp/put-123": false, "seg/00": false, "seg/01/live/7": true, "lost+found": true,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s after open: %v, want there: %v", name, err, want)
		}
	}
	infos, err := s.List(t.Context(), "", "", 10)
	if err != nil || len(infos) != 1 || infos[0].Key != "seg/01/live/7" {
		t.Errorf("list: %v, %v", infos, err)
	}
}

func TestPutLeavesNoTemporaryFile(t *testing.T) {
	for name, open := range map[string]func(*testing.T, string) *file.Store{
		"unnamed": func(t *testing.T, dir string) *file.Store { return open(t, dir) },
		"named":   openNamed,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			for range 2 {
				err := s.Put(t.Context(), "x", objstoretest.Body(1, 100, 10))
				if err != nil && !errors.Is(err, objstore.ErrExists) {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Put(ctx, "y", nil); !errors.Is(err, context.Canceled) {
				t.Errorf("canceled put: %v", err)
			}
			left, err := os.ReadDir(filepath.Join(dir, "~tmp"))
			if err != nil || len(left) != 0 {
				t.Errorf("left in ~tmp: %v, %v", left, err)
			}
		})
	}
}

func TestKeyCannotBeADirectoryOfAnother(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Put(t.Context(), "a/b", nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "a/b/c"} {
		if err := s.Put(t.Context(), key, nil); !errors.Is(err, objstore.ErrInvalid) {
			t.Errorf("put %s: %v, want ErrInvalid", key, err)
		}
	}
}

func TestPutSurvivesARemovedDirectory(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 2 {
		if err := s.Put(t.Context(), fmt.Sprintf("d/e/%d", i), nil); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "d")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLargeBodiesOfAnySizeComeBack(t *testing.T) {
	s := open(t, t.TempDir())
	for _, size := range []int{256<<10 - 1, 256 << 10, 256<<10 + 1, 1<<20 + 4095, 8 << 20, 8<<20 + 1, 17<<20 - 3} {
		key := fmt.Sprint("large/", size)
		body := objstoretest.Body(uint64(size), size, 1000)
		if err := s.Put(t.Context(), key, body); err != nil {
			t.Fatal(err)
		}
		info, err := s.Head(t.Context(), key)
		if err != nil || info.Size != int64(size) || !info.HasCRC || info.CRC32C != body.CRC32C() {
			t.Errorf("%d bytes: Head says %+v, %v", size, info, err)
		}
		got, err := s.GetRange(t.Context(), key, 0, int64(size))
		if err != nil || !bytes.Equal(got, body.Bytes()) {
			t.Errorf("%d bytes came back as %d other ones, %v", size, len(got), err)
		}
	}
}

// BenchmarkPut8MiB writes segments as an agent does: thousands of slices, four at a
// time at most. BenchmarkRaw8MiB is the yardstick: the same bytes in one slice, written
// to a new file and synced.
func BenchmarkPut8MiB(b *testing.B) {
	s := open(b, b.TempDir())
	body := objstoretest.Body(1, 8<<20, 4000)
	run(b, func(i int) error {
		key := fmt.Sprintf("seg/%02x/session/%016x", i%8, i)
		if err := s.Put(b.Context(), key, body); err != nil {
			return err
		}
		return s.Delete(b.Context(), key)
	})
}

func BenchmarkRaw8MiB(b *testing.B) {
	dir := b.TempDir()
	data := objstoretest.Body(1, 8<<20, 8<<20)[0]
	run(b, func(i int) error {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	})
}

func run(b *testing.B, write func(i int) error) {
	for _, workers := range []int{1, 4} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			b.SetBytes(8 << 20)
			b.ReportAllocs()
			jobs := make(chan int)
			done := make(chan error, workers)
			for range workers {
				go func() {
					var errs error
					for i := range jobs {
						errs = errors.Join(errs, write(i))
					}
					done <- errs
				}()
			}
			for i := range b.N {
				jobs <- i
			}
			close(jobs)
			for range workers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGetRange1MiB(b *testing.B) {
	s := open(b, b.TempDir())
	if err := s.Put(b.Context(), "x", objstoretest.Body(1, 8<<20, 1<<20)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(1 << 20)
	for i := range b.N {
		if _, err := s.GetRange(b.Context(), "x", int64(i%7)<<20, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}

// Several agents on one directory may start at any moment, while others write.
func TestOpenedByManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for round := range 20 {
				s, err := file.Open(dir)
				if err != nil {
					t.Errorf("opening: %v", err)
					return
				}
				key := fmt.Sprintf("seg/%02d/%d", i, round)
				if err := s.Put(t.Context(), key, objstore.Body{[]byte(key)}); err != nil {
					t.Errorf("putting %s: %v", key, err)
				} else if got, err := s.GetRange(t.Context(), key, 0, int64(len(key))); err != nil || string(got) != key {
					t.Errorf("getting %s: %q, %v", key, got, err)
				}
				if err := s.Delete(t.Context(), key); err != nil { // leaves an empty directory behind
					t.Errorf("deleting %s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
}
