package job

import (
	"context"

	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/segment"
)

// renewer is a Reader that can be told that what it has of a range is not what belongs there.
type renewer interface{ Renew(r cache.Range) }

// Read reads whole batches, of which the first has the offset base. Bytes of another place, which the object
// store or a cache took for these, are asked for once more; what a job made of them would be wrong for ever.
func Read(ctx context.Context, from Reader, r cache.Range, base tiering.Offset) ([][]byte, error) {
	got, err := from.Read(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	err = segment.CheckStamps(got, base)
	if again, ok := from.(renewer); ok && err != nil {
		again.Renew(r)
		if got, err = from.Read(ctx, r, nil); err == nil {
			err = segment.CheckStamps(got, base)
		}
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}
