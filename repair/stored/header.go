package stored

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

// headerRead is what is read of a segment at first: most headers carry less.
const headerRead = 16 << 10

// Header reads and checks the header of a segment. The error is ErrCorrupt or ErrVersion of the segment's, or comes
// from the object store.
func Header(ctx context.Context, objects objstore.Store, o objstore.Info) (segment.Header, error) {
	b, err := objects.GetRange(ctx, o.Key, 0, min(o.Size, headerRead))
	if err != nil {
		return segment.Header{}, fmt.Errorf("reading %s: %w", o.Key, err)
	}
	if len(b) >= 16 {
		if n := int64(binary.BigEndian.Uint32(b[12:])); n > int64(len(b)) && n <= min(o.Size, segment.MaxHeaderBytes) {
			if b, err = objects.GetRange(ctx, o.Key, 0, n); err != nil {
				return segment.Header{}, fmt.Errorf("reading %s: %w", o.Key, err)
			}
		}
	}
	return segment.ParseHeader(b)
}
