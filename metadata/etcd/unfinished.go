package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
)

// A member that is stopped or killed in its first moments leaves a write-ahead log without
// its first commit, in which it makes itself the one member of its cluster. etcd takes such
// a log for that of a member, of a cluster without any: it never elects a leader, and a
// start from it waits for ever. Nothing can have been acknowledged before that commit, so
// the directory is as good as new.

const (
	memberDir = "member" // in the data directory; the server's own
	// discarded is what an unfinished member is called while it is deleted: half of one must
	// not be found.
	discarded = "member.unfinished"
	// firstSegment is the segment with which every log begins. Logs that have lost it are
	// longer than any that is looked for here.
	firstSegment = "0000000000000000-0000000000000000.wal"
)

// discardUnfinished removes a member that has never committed anything.
func discardUnfinished(dir string) error {
	aside := filepath.Join(dir, discarded)
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	log := filepath.Join(dir, memberDir, "wal")
	segments, err := filepath.Glob(filepath.Join(log, "*.wal"))
	if err != nil || len(segments) != 1 || filepath.Base(segments[0]) != firstSegment {
		return err
	}
	blank, err := neverCommitted(segments[0])
	if err != nil || !blank {
		return err
	}
	if err := os.Rename(filepath.Join(dir, memberDir), aside); err != nil {
		return err
	}
	return os.RemoveAll(aside)
}

// neverCommitted reports whether a log's only segment proves that nothing was committed:
// it has no such record, can be read to its end, and nothing follows. A segment that
// cannot be read proves nothing; what is wrong with it is for the server to say.
func neverCommitted(segment string) (bool, error) {
	f, err := os.Open(segment)
	if err != nil {
		return false, err
	}
	defer f.Close()
	d := wal.NewDecoder(fileutil.NewFileReader(f))
	end := int64(0) // of what was read; the decoder forgets it at the end of a file
	for rec := new(walpb.Record); ; end = d.LastOffset() {
		err := d.Decode(rec)
		switch {
		case errors.Is(err, io.EOF):
			return zerosFrom(f, end)
		case err != nil:
			return false, nil
		case rec.GetType() == wal.CrcType:
			d.UpdateCRC(rec.GetCrc())
		case rec.GetType() == wal.StateType && wal.MustUnmarshalState(rec.Data).GetCommit() > 0:
			return false, nil
		}
	}
}

// zerosFrom reports whether the file holds nothing but zeros from a position on.
func zerosFrom(f *os.File, from int64) (bool, error) {
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return false, fmt.Errorf("reading %s: %w", f.Name(), err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return false, nil
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return true, nil
		case err != nil:
			return false, fmt.Errorf("reading %s: %w", f.Name(), err)
		}
	}
}
