package peer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/cache"
	"github.com/floelog/floe/tiering/objstore"
)

// ErrNoBlocks says that the other agent does not know how to serve blocks: it is of an older
// version.
var ErrNoBlocks = errors.New("the agent does not serve blocks")

// ErrNotServed says that the other agent is well and could not get the bytes either.
var ErrNotServed = errors.New("the agent could not get the block")

// Blocks serves bytes of segments to other agents.
type Blocks interface {
	// BlockHere returns slices that together are the range, without asking any other agent.
	// They are sent as they are: nobody may change their bytes. ctx carries the
	// objstore.Purpose. cache.ErrBusy says that the other agent should go elsewhere.
	BlockHere(ctx context.Context, r cache.Range) ([][]byte, error)
}

const (
	blockRequest = 1 + 1 + 1 + 16 + 8 + 8 + 4
	flagCold     = 1

	// MaxBlock is the greatest length that Block may be asked for: it fits into a message.
	MaxBlock = maxMessage - 1

	// blockWindow is what may be under way of an answer before the other side has said that
	// it wants more: the largest answer, so that one round trip is enough.
	blockWindow = maxMessage
)

func encodeBlock(r cache.Range, purpose objstore.Purpose) []byte {
	b := make([]byte, 0, blockRequest)
	flags := byte(0)
	if r.Cold {
		flags |= flagCold
	}
	b = append(b, protocolVersion, byte(purpose), flags)
	b = append(b, r.Segment.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Segment.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Position))
	return binary.BigEndian.AppendUint32(b, uint32(r.Length))
}

func decodeBlock(b []byte) (r cache.Range, purpose objstore.Purpose, err error) {
	if len(b) != blockRequest || b[0] != protocolVersion {
		return r, 0, fmt.Errorf("%w: not a request for a block of protocol version %d", metadata.ErrInvalid, protocolVersion)
	}
	if purpose = objstore.Purpose(b[1]); int(purpose) >= len(objstore.Purposes()) {
		purpose = objstore.Other // of a newer version
	}
	r.Cold = b[2]&flagCold != 0
	r.Segment = tiering.SegmentID{Session: tiering.SessionID(b[3:19]), Seq: binary.BigEndian.Uint64(b[19:])}
	position, n := binary.BigEndian.Uint64(b[27:]), binary.BigEndian.Uint32(b[35:])
	r.Position, r.Length = tiering.Position(position), int(n)
	if r.Segment.IsZero() || r.Position < 0 || n == 0 || n > MaxBlock {
		return r, 0, fmt.Errorf("%w: a request for %s", metadata.ErrInvalid, r)
	}
	return r, purpose, nil
}

// Block asks the agent at addr for a range of a segment of at most MaxBlock bytes, for the
// purpose that ctx carries. The caller owns the result, which is not verified. On any error
// the bytes are to be had from the object store; cache.ErrBusy, ErrNoBlocks and ErrNotServed say why.
func (c *Client) Block(ctx context.Context, addr string, r cache.Range) ([]byte, error) {
	if r.Length > MaxBlock {
		return nil, fmt.Errorf("%w: %d bytes of a block", metadata.ErrInvalid, r.Length)
	}
	conn, err := c.blockConn(addr)
	if err != nil {
		return nil, err
	}
	answer, err := invoke(ctx, conn, blockMethod, encodeBlock(r, objstore.PurposeOf(ctx)))
	switch grpcstatus.Code(err) {
	case codes.OK:
	case codes.Unimplemented:
		return nil, fmt.Errorf("asking the agent at %s: %w", addr, ErrNoBlocks)
	case codes.ResourceExhausted:
		return nil, fmt.Errorf("asking the agent at %s: %w", addr, cache.ErrBusy)
	case codes.Aborted:
		return nil, fmt.Errorf("asking the agent at %s for %s: %w: %w", addr, r, ErrNotServed, err)
	default:
		return nil, fmt.Errorf("asking the agent at %s for %s: %w", addr, r, err)
	}
	if len(answer) != 1+r.Length || answer[0] != byte(statusOK) {
		return nil, fmt.Errorf("asking the agent at %s for %s: %w: an answer of %d bytes", addr, r, objstore.ErrCorrupt, len(answer))
	}
	return answer[1:], nil
}

// maxBlockCalls bounds the answers to Block that are made or being sent at a time. Not smaller:
// all agents of a zone ask at once when a replay begins. Not larger: each holds a block that may
// have left the cache meanwhile, for as long as the other side takes to read it.
const maxBlockCalls = 64

// service is what a Server serves.
type service struct {
	Leader
	blocks Blocks
	calls  *blockCalls
}

// blockCalls counts the calls of Block under way, up to the last byte that is sent: a handler
// returns before that. It is a stats.Handler, which gRPC tells of both ends.
type blockCalls struct{ n atomic.Int64 }

type blockCallKey struct{}

// TagRPC implements stats.Handler, as do the next three.
func (c *blockCalls) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName != "/"+serviceName+"/"+blockMethod {
		return ctx
	}
	c.n.Add(1)
	return context.WithValue(ctx, blockCallKey{}, true)
}

// HandleRPC ends what TagRPC began.
func (c *blockCalls) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ended := s.(*stats.End); ended && ctx.Value(blockCallKey{}) != nil {
		c.n.Add(-1)
	}
}

// TagConn does nothing.
func (c *blockCalls) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn does nothing.
func (c *blockCalls) HandleConn(context.Context, stats.ConnStats) {}

func handleBlock(srv any, ctx context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var in []byte
	if err := receive(&in); err != nil {
		return nil, err
	}
	if err := speaks(in); err != nil {
		return nil, err
	}
	r, purpose, err := decodeBlock(in)
	if err != nil {
		return nil, grpcstatus.Error(codes.InvalidArgument, err.Error())
	}
	sv := srv.(service)
	if sv.calls.n.Load() > maxBlockCalls {
		return nil, grpcstatus.Error(codes.ResourceExhausted, "too many blocks are being served")
	}
	out, err := sv.blocks.BlockHere(objstore.WithPurpose(ctx, purpose), r)
	switch {
	case errors.Is(err, cache.ErrBusy):
		return nil, grpcstatus.Error(codes.ResourceExhausted, err.Error())
	case err != nil:
		// Not Unavailable, which is what gRPC says of agents that cannot be reached.
		return nil, grpcstatus.Error(codes.Aborted, err.Error())
	}
	answer := append([][]byte{{byte(statusOK)}}, out...)
	return &answer, nil
}
