package nemesis

import (
	"context"
	"encoding/binary"
	"slices"
	"time"
)

// Frames captures Kafka requests.
type Frames struct {
	Keys []int16 // API keys of those that are captured
	Most int     // how many
	// Hold takes the request out of its connection, which is cut: the client hears nothing and asks again. The
	// request comes later, as one that a network has held. Otherwise it is handed on, and comes a second time.
	Hold bool
	// After is how long after its capture a request is sent, on a fresh connection to the same agent.
	After time.Duration
}

// replayTimeout bounds the wait for the answer to a captured request: less than any window of faults.
const replayTimeout = 10 * time.Second

// mostFrame bounds the requests that are captured; longer ones pass. Those that matter are short.
const mostFrame = 1 << 20

// capture is an order for frames.
type capture struct {
	Frames
	imposition *Imposition
	left       int // guarded by link.mu
}

// Capture carries an order for requests out until it is lifted; the link must be of the kind Kafka. Effects
// counts captured requests that the agent has answered when they came late.
func (l *Link) Capture(f Frames) *Imposition {
	i := &Imposition{link: l, touched: map[*pair]bool{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.imposed[i] = true
	l.captures = append(l.captures, &capture{f, i, f.Most})
	return i
}

// captured returns the order that a request is for, if there is one.
func (l *Link) captured(key int16, length int) *capture {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.captures = slices.DeleteFunc(l.captures, func(c *capture) bool { return c.left == 0 || !l.imposed[c.imposition] })
	if length > mostFrame {
		return nil
	}
	for _, c := range l.captures {
		if slices.Contains(c.Keys, key) {
			c.left--
			return c
		}
	}
	return nil
}

// replay sends a captured request later.
func (l *Link) replay(c *capture, frame []byte) {
	l.work.Go(func() {
		if hold(l.ctx, c.After) && l.roundTrip(l.ctx, frame) {
			c.imposition.effects.Add(1)
		}
	})
}

// headerSize is what decides about a frame.
//
//	0      4         6             8
//	| size | API key | API version | ...     size counts what comes after it
const headerSize = 8

// framer finds the frames in the bytes that a client sends. It is for one goroutine.
type framer struct {
	take   func(key int16, size int) *capture
	done   func(*capture, []byte)
	header [headerSize]byte
	have   int      // bytes of header
	left   int      // bytes of the frame that have not come
	kept   []byte   // the frame, if it is captured
	order  *capture // that it is captured for
	out    []byte
}

// pass returns which of the bytes go on, until the next call; false: the connection must end after them.
func (f *framer) pass(b []byte) (out []byte, ok bool) {
	f.out = f.out[:0]
	for len(b) > 0 {
		if f.left == 0 {
			n := copy(f.header[f.have:], b)
			f.have, b = f.have+n, b[n:]
			if f.have < headerSize {
				return f.out, true
			}
			f.have = 0
			size := int(int32(binary.BigEndian.Uint32(f.header[:])))
			if f.left = size - (headerSize - 4); f.left < 0 {
				return f.out, false // not Kafka's protocol
			}
			f.order = f.take(int16(binary.BigEndian.Uint16(f.header[4:])), size)
			if !f.hand(f.header[:]) {
				return f.out, false
			}
			continue
		}
		part := b[:min(len(b), f.left)]
		f.left, b = f.left-len(part), b[len(part):]
		if !f.hand(part) {
			return f.out, false
		}
	}
	return f.out, true
}

// hand lets a part of a frame go on, or keeps it.
func (f *framer) hand(part []byte) bool {
	if f.order == nil || !f.order.Hold {
		f.out = append(f.out, part...)
	}
	if f.order == nil {
		return true
	}
	f.kept = append(f.kept, part...)
	if f.left > 0 {
		return true
	}
	order, frame := f.order, f.kept
	f.order, f.kept = nil, nil
	f.done(order, frame)
	return !order.Hold
}

// Together is Impose on several links.
func Together(links []*Link, t Trouble) Impositions {
	all := make(Impositions, len(links))
	for i, l := range links {
		all[i] = l.Impose(t)
	}
	return all
}

// Impositions are troubles that are lifted together.
type Impositions []*Imposition

// Lift ends them all and returns their effects.
func (all Impositions) Lift() (effects int) {
	for _, i := range all {
		effects += i.Lift()
	}
	return effects
}

// Effects returns their effects so far.
func (all Impositions) Effects() (effects int) {
	for _, i := range all {
		effects += i.Effects()
	}
	return effects
}

// Hold waits for d, and reports whether ctx lives: how long a fault lasts is what it is.
func Hold(ctx context.Context, d time.Duration) bool { return hold(ctx, d) }
