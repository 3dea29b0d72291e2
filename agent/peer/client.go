package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/shard"
	"github.com/floelog/floe/tiering"
)

// Client asks other agents. Its connections are made when they are first needed and kept.
type Client struct {
	as Identity

	mu     sync.Mutex
	conns  map[connKey]*grpc.ClientConn
	closed bool
}

// connKey names a connection: blocks have one of their own, so that no submission waits behind
// megabytes.
type connKey struct {
	addr   string
	blocks bool
}

// NewClient returns a client without connections that asks as a member of a cluster.
func NewClient(as Identity) *Client { return &Client{as: as, conns: map[connKey]*grpc.ClientConn{}} }

// Sequence asks the agent at addr to commit a submission on a shard that it leads. Errors
// other than metadata.ErrFenced, ErrSessionDead, ErrInvalid and shard.ErrStaleSubmission
// leave the outcome unknown, but for ErrNotSpoken and ErrRefused, after which nothing was done.
func (c *Client) Sequence(ctx context.Context, addr string, id tiering.ShardID, s *shard.Submission) ([]shard.Outcome, error) {
	conn, err := c.conn(addr)
	if err != nil {
		return nil, err
	}
	in := encodeRequest(id, s)
	if len(in) > maxMessage {
		return nil, fmt.Errorf("%w: a submission of %d bytes, at most %d fit in a message", metadata.ErrInvalid, len(in), maxMessage)
	}
	answer, err := invoke(ctx, conn, sequenceMethod, in)
	if err != nil {
		return nil, fmt.Errorf("asking the agent at %s: %w", addr, err)
	}
	return decodeAnswer(answer)
}

// Ask asks the agent at addr something about a shard that it leads, and returns the body of
// the answer. Errors are those of Sequence.
func (c *Client) Ask(ctx context.Context, addr string, q Question) ([]byte, error) {
	if len(q.Kind) > 255 || len(q.Body) > maxMessage/2 {
		return nil, fmt.Errorf("%w: a question %q of %d bytes", metadata.ErrInvalid, q.Kind, len(q.Body))
	}
	conn, err := c.conn(addr)
	if err != nil {
		return nil, err
	}
	answer, err := invoke(ctx, conn, askMethod, q.encode())
	if err != nil {
		return nil, fmt.Errorf("asking the agent at %s: %w", addr, err)
	}
	return decodeStatus(answer)
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method string, in []byte) (answer []byte, err error) {
	err = conn.Invoke(ctx, "/"+serviceName+"/"+method, &in, &answer, grpc.ForceCodecV2(rawCodec{}))
	return answer, spoken(err)
}

func (c *Client) conn(addr string) (*grpc.ClientConn, error) { return c.connect(connKey{addr: addr}) }

func (c *Client) blockConn(addr string) (*grpc.ClientConn, error) {
	return c.connect(connKey{addr, true}, grpc.WithInitialWindowSize(blockWindow), grpc.WithInitialConnWindowSize(4*blockWindow))
}

func (c *Client) connect(key connKey, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.New("the client of other agents is closed")
	}
	if conn := c.conns[key]; conn != nil {
		return conn, nil
	}
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 50*time.Millisecond, time.Second
	conn, err := grpc.NewClient("passthrough:///"+key.addr, append(opts,
		grpc.WithTransportCredentials(c.as.clientTransport()),
		grpc.WithPerRPCCredentials(c.as.headers()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		// Floe repeats a submission itself, knowing when that is safe.
		grpc.WithDisableRetry(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the agent at %s: %w", key.addr, err)
	}
	c.conns[key] = conn
	return conn, nil
}

// Keep closes the connections to all agents but those at the given addresses.
func (c *Client) Keep(addrs map[string]bool) {
	c.mu.Lock()
	var gone []*grpc.ClientConn
	for key, conn := range c.conns {
		if !addrs[key.addr] {
			gone = append(gone, conn)
			delete(c.conns, key)
		}
	}
	c.mu.Unlock()
	for _, conn := range gone {
		conn.Close()
	}
}

// Close closes all connections; calls under way fail.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.Keep(nil)
}
