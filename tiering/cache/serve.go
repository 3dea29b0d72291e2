package cache

import (
	"context"
	"errors"
	"fmt"

	"github.com/floelog/floe/tiering/objstore"
)

// ErrBusy says that nothing was done for another agent, which had better ask the store.
var ErrBusy = errors.New("cache busy")

// maxServes bounds the answers to other agents that are waited for and sent at a time. Not
// smaller: all agents of a zone ask at once when a replay begins. Not larger: each holds up
// to a block that may have been evicted meanwhile.
const maxServes = 64

// Serve returns slices that together are exactly the range, for another agent of the zone: from
// what is here, or else from disk or store. They are shared: nobody may change their bytes.
//
// Nothing is verified, since the range need not be of whole batches: the other agent does so.
// ErrBusy says that too many are served already, or that the bytes are just being asked of
// another agent.
func (c *Cache) Serve(ctx context.Context, r Range) ([][]byte, error) {
	if !r.valid() || int64(r.Length) > 2*c.opts.BlockSize {
		return nil, fmt.Errorf("cache: no such range: %s", r)
	}
	select {
	case c.serves <- struct{}{}:
	default:
		c.refused.Add(1)
		return nil, ErrBusy
	}
	defer func() { <-c.serves }()
	out, err := c.serve(ctx, r)
	switch {
	case err == nil:
		c.served.Add(1)
		c.servedBytes.Add(int64(r.Length))
	case errors.Is(err, ErrBusy):
		c.refused.Add(1)
	}
	return out, err
}

func (c *Cache) serve(ctx context.Context, r Range) ([][]byte, error) {
	if out, ok := c.readTail(r, nil); ok {
		return out, nil
	}
	how := order{purpose: objstore.PurposeOf(ctx), cold: r.Cold, here: true}
	useful := r.end() // the other agent has asked for all that it knows to be of use
	parts, err := c.split(r, useful, how, nil)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for i := range parts {
		p := &parts[i]
		if err := c.await(ctx, p, p.hi, how); err != nil {
			return nil, err
		}
		out = p.content.appendRange(out, p.lo, p.hi)
	}
	return out, nil
}
