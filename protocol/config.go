package protocol

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is what a Server needs to know. Zero values take the defaults named here.
type Config struct {
	// Name is the listener's name, for logs and metrics.
	Name string
	// RequireHandshake keeps the small limits of an unknown client until
	// Conn.HandshakeDone is called. Without it, the first complete frame is enough.
	RequireHandshake bool

	// ProduceBudget is charged with the bytes of produce requests, ControlBudget with
	// those of all others and of decoding them. They are two so that a store that is slow
	// does not stop heartbeats. Servers may share them. Both are required.
	ProduceBudget, ControlBudget *Budget

	// MaxRequestBytes bounds a produce request (socket.request.max.bytes).
	MaxRequestBytes int
	// MaxControlBytes bounds every other request.
	MaxControlBytes int
	// MaxHandshakeBytes bounds every request until the handshake is done.
	MaxHandshakeBytes int

	// MaxConns bounds the connections of this listener, MaxConnsPerHost those that one
	// address holds (max.connections, max.connections.per.ip).
	MaxConns, MaxConnsPerHost int

	// HandshakeTimeout is the time from accepting to the end of the handshake.
	HandshakeTimeout time.Duration
	// FrameTimeout is the time in which the next readChunk of a begun frame must arrive. The
	// whole frame has FrameTimeout and what it takes at minFrameRate.
	FrameTimeout time.Duration
	// WriteTimeout is the time in which the client must take writeChunk of an answer.
	WriteTimeout time.Duration
	// IdleTimeout is the time without any request (connections.max.idle.ms).
	IdleTimeout time.Duration

	// Now is the clock, time.Now by default. Deadlines on sockets use it too.
	Now func() time.Time
	// Log takes one line per odd event. Required.
	Log *slog.Logger
	// Observer may be nil.
	Observer Observer

	// largeFrames is charged with produce frames of more than largeFrame that are still
	// arriving: half of the produce budget, or one frame of MaxRequestBytes.
	largeFrames *Budget
}

// The defaults, each with what speaks against less and more.
const (
	// DefaultMaxRequestBytes is Kafka's. Less breaks producers with large batches; more
	// lets one request take the budget of thousands.
	DefaultMaxRequestBytes = 100 << 20
	// DefaultMaxControlBytes fits an offset fetch of 100,000 partitions; decoding takes
	// decodeFactor times as much.
	DefaultMaxControlBytes = 4 << 20
	// DefaultMaxHandshakeBytes is what Kafka takes in a SASL exchange: Kerberos and OAuth
	// tokens reach some 10 KiB; whoever is unknown should not get more memory than that.
	DefaultMaxHandshakeBytes = 512 << 10
	// DefaultMaxConns keeps 10,000 clients with two connections each; every idle one takes
	// some 15 KiB.
	DefaultMaxConns = 20_000
	// DefaultHandshakeTimeout suits TLS and SASL over slow links; longer lets silent
	// connections use up the limit.
	DefaultHandshakeTimeout = 15 * time.Second
	// DefaultFrameTimeout is Kafka's request timeout: later the client has given up. With
	// readChunk it demands 9 KB/s.
	DefaultFrameTimeout = 30 * time.Second
	// DefaultWriteTimeout likewise demands 35 KB/s of a consumer.
	DefaultWriteTimeout = 30 * time.Second
	// DefaultIdleTimeout is Kafka's.
	DefaultIdleTimeout = 10 * time.Minute
)

const (
	// MaxInFlight bounds the requests of one connection that are not answered yet. The
	// Java producer sends 5, librdkafka up to 1,000,000 but gains nothing beyond what
	// covers an upload's time; each one holds its frame.
	MaxInFlight = 64
	// drainSilence is how long a connection must have been silent during a shutdown before it
	// ends. Less than a round trip cuts off clients that have just been answered and send on;
	// more delays the end of connections that nobody uses.
	drainSilence = 200 * time.Millisecond
	// drainGrace is how long a connection that does not fall silent, or that has had no answer at
	// all, may go on during a shutdown. Less cuts off clients whose first request is on its way:
	// after ApiVersions it takes three round trips, of 300 ms over the longest links. More only
	// delays the shutdown, for connections that are opened and never used and for clients that
	// do not go elsewhere although they are told to.
	drainGrace = time.Second
	// readBuffer holds the heads of frames. Smaller means more system calls for small
	// requests, larger only costs idle connections memory: bodies bypass it.
	readBuffer = 4 << 10
	// firstAlloc is what a frame gets before its bytes arrive, unless the connection has
	// delivered larger ones. Less makes usual produce requests grow step by step, more
	// helps an attacker who sends lengths and nothing else.
	firstAlloc = 64 << 10
	// growFactor is how much a frame's buffer grows when it is full. Every byte is copied
	// at most 1/3 time on average; the buffer is at most 4 times what has arrived.
	growFactor = 4
	// readChunk is how much must arrive within FrameTimeout.
	readChunk = 256 << 10
	// minFrameRate, in bytes per second, bounds how long a frame holds budget for bytes that
	// have not come. More cuts off large requests on links of 10 Mbit/s, whose clients,
	// with Kafka's request timeout of 30 seconds, would need three times that; less lets a
	// client that says 100 MiB and sends nothing to speak of hold them for longer than the
	// two minutes after which producers give up.
	minFrameRate = 1 << 20
	// largeFrame is what producers send at most unless they are told otherwise
	// (max.request.size, message.max.bytes). Larger ones share a part of the produce budget
	// while they arrive, so that a few that come slowly, or not at all, leave the rest to
	// usual requests. Nobody is charged step by step: who waits must hold nothing.
	largeFrame = 1 << 20
	// writeChunk is how much of consecutive answers is written with one system call, and
	// must be taken within WriteTimeout.
	writeChunk = 1 << 20
	// smallBody is the size up to which a body is copied next to its header, so that
	// small answers leave as one buffer (one TLS record, one packet).
	smallBody = 2 << 10
	// garbageLogEvery keeps scanners from filling the log.
	garbageLogEvery = 10 * time.Second
)

func orDefault[T int | time.Duration](x *T, d T) {
	if *x == 0 {
		*x = d
	}
}

// withDefaults fills in the defaults and checks the rest.
func (c Config) withDefaults() (Config, error) {
	orDefault(&c.MaxRequestBytes, DefaultMaxRequestBytes)
	orDefault(&c.MaxControlBytes, DefaultMaxControlBytes)
	orDefault(&c.MaxHandshakeBytes, DefaultMaxHandshakeBytes)
	orDefault(&c.MaxConns, DefaultMaxConns)
	orDefault(&c.MaxConnsPerHost, c.MaxConns)
	orDefault(&c.HandshakeTimeout, DefaultHandshakeTimeout)
	orDefault(&c.FrameTimeout, DefaultFrameTimeout)
	orDefault(&c.WriteTimeout, DefaultWriteTimeout)
	orDefault(&c.IdleTimeout, DefaultIdleTimeout)
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case c.Log == nil:
		return c, errors.New("listener: Log is missing")
	case c.ProduceBudget == nil || c.ControlBudget == nil:
		return c, errors.New("listener: ProduceBudget or ControlBudget is missing")
	case c.MaxRequestBytes < minFrame || c.MaxControlBytes < minFrame || c.MaxHandshakeBytes < minFrame:
		return c, fmt.Errorf("listener: a request limit is below the %d bytes of a header", minFrame)
	case c.ProduceBudget.Size() < int64(c.MaxRequestBytes):
		return c, fmt.Errorf("listener: MaxRequestBytes is %d but the produce budget only %d", c.MaxRequestBytes, c.ProduceBudget.Size())
	}
	c.largeFrames = NewBudget(max(c.ProduceBudget.Size()/2, int64(c.MaxRequestBytes)))
	if need := controlCharge(max(c.MaxControlBytes, c.MaxHandshakeBytes)); c.ControlBudget.Size() < need {
		return c, fmt.Errorf("listener: a control request may need %d bytes but the control budget is %d", need, c.ControlBudget.Size())
	}
	return c, nil
}

// controlCharge is what a frame of any API but Produce is charged with: its bytes, and
// what decoding may take, all at once, so that nobody waits for budget while holding some.
func controlCharge(size int) int64 { return int64(size) + decodeCharge(size) }
