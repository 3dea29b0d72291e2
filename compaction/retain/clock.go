package retain

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/floelog/floe/tiering/objstore"
)

const (
	// maxSkew is how far the clock may differ from the object store's. Smaller: a virtual
	// machine that was moved deletes nothing for a while. Larger: topics that are kept for
	// minutes lose what they should have.
	maxSkew = 5 * time.Minute
	// trustFor is how long a clock that agreed is not compared again, unless it jumps. Each
	// comparison costs three requests.
	trustFor = time.Hour
	// maxJump is how far the clock may go ahead of the time that has passed until it is
	// compared again: more than any correction that leaves it right.
	maxJump = time.Minute
)

// Clock compares this agent's clock with the object store's, by an object that it stores for
// this and deletes again. It is used by one goroutine.
type Clock struct {
	Objects objstore.Store
	Key     func() string        // of an object that was never stored before
	Now     func() time.Time     // what is compared
	Passed  func() time.Duration // since some moment, by a clock that nobody sets
	// Compared is told by how much the clock was ahead of the object store's at least, below 0
	// where it was behind; nil: nobody is.
	Compared func(ahead time.Duration)

	agreed time.Time     // when it did last; zero: never
	at     time.Duration // Passed at that time
}

// errSkew says that the clocks disagree.
var errSkew = errors.New("the clock differs from the object store's")

// Check returns nil if the clock may be trusted.
func (c *Clock) Check(ctx context.Context) error {
	now := c.Now()
	if !c.agreed.IsZero() {
		passed := c.Passed() - c.at
		jump := now.Round(0).Sub(c.agreed) - passed
		if passed < trustFor && jump.Abs() <= maxJump {
			return nil
		}
	}
	c.agreed = time.Time{}
	if err := c.compare(ctx, now); err != nil {
		return err
	}
	c.agreed, c.at = c.Now().Round(0), c.Passed()
	return nil
}

func (c *Clock) compare(ctx context.Context, before time.Time) error {
	key := c.Key()
	if err := c.Objects.Put(ctx, key, objstore.Body{[]byte("clock")}); err != nil {
		return fmt.Errorf("comparing clocks: %w", err)
	}
	after := c.Now()
	info, err := c.Objects.Head(ctx, key)
	if err == nil {
		err = c.Objects.Delete(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("comparing clocks: %w", err)
	}
	stored := info.Modified.Round(0)
	ahead, behind := max(0, before.Round(0).Sub(stored)), max(0, stored.Sub(after.Round(0)))
	if c.Compared != nil {
		c.Compared(ahead - behind)
	}
	switch {
	case ahead > maxSkew:
		return fmt.Errorf("%w: it is %v ahead", errSkew, ahead.Round(time.Second))
	case behind > maxSkew:
		return fmt.Errorf("%w: it is %v behind", errSkew, behind.Round(time.Second))
	}
	return nil
}
