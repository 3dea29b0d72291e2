// Package protocol carries Kafka requests between sockets and a Handler: frames,
// request headers, bounded decoding, and one connection's loop. It knows how requests
// travel, not what they mean; agent/kafka does.
//
// Invariants:
//
//  1. Nothing is allocated because a client said a number. A frame's memory is charged
//     to a Budget before it is read, grows only as bytes arrive, and is given back when
//     the request's answer is there or its handler releases it. A connection that gets
//     no budget is simply not read: TCP does the rest.
//  2. A connection's answers leave in the order of its requests (Kafka's contract), each
//     request is answered at most once, and acks=0 not at all.
//  3. Produce requests of a connection overlap, up to MaxInFlight. Any other request is
//     served when everything before it is answered, and everything after it waits for
//     it: what Kafka guarantees to clients that send without waiting.
//  4. A frame's bytes are never reused: batches within it may live on in flush buffers
//     and caches, so frames are left to the garbage collector, never pooled.
//  5. Every connection has two goroutines, which the Server waits for; both end only
//     when every Pending of the connection is resolved.
//  6. A panic while a request is decoded or served ends that connection, not the agent.
//
// Server and Conn methods may be called from any goroutine. Handler.Serve is called by
// one goroutine per connection.
package protocol

import (
	"context"
	"time"
)

// Handler serves requests; agent/kafka implements it.
type Handler interface {
	// Versions returns the range of versions that are served of an API, ok false if
	// none is. Requests outside are not served: ApiVersions is answered with
	// UNSUPPORTED_VERSION and its own range (KIP-511), others end the connection.
	Versions(key int16) (lowest, highest int16, ok bool)
	// Serve starts serving r. The result may be resolved already, or later by anyone;
	// it must be resolved, at the latest when ctx has ended, which is when the
	// connection ends. A Produce handler returns as soon as the order of its batches is
	// settled, so that the next one can follow. Other handlers may block.
	//
	// ctx ends when the client goes away, but what an acks=0 request produced must not
	// be given up for that.
	Serve(ctx context.Context, c *Conn, r *Request) *Pending
}

// Observer is told what happens, for metrics. Its methods are called on hot paths and
// must not block.
type Observer interface {
	// ConnOpened counts an accepted connection.
	ConnOpened(listener string)
	// ConnClosed counts a closed one, with the reason as one of the Reason constants.
	ConnClosed(listener, reason string)
	// ConnRefused counts a connection closed at once, because of a limit.
	ConnRefused(listener string)
	// Served is called when a request's answer is written or, with acks=0, settled.
	Served(s Served)
}

// Served describes one request that was served.
type Served struct {
	Listener     string
	Key, Version int16
	ErrorCode    int16         // the answer's top-level or first error, 0 for none
	RequestSize  int           // bytes, without the length
	ResponseSize int           // bytes with length and header; 0 if there was no answer
	Latency      time.Duration // from the last byte read to the answer written
}

// Why a connection was closed.
const (
	ReasonClient    = "client"    // the client closed it
	ReasonShutdown  = "shutdown"  // the agent shuts down
	ReasonIdle      = "idle"      // nothing was asked for too long
	ReasonTimeout   = "timeout"   // a handshake, frame or answer took too long
	ReasonMalformed = "malformed" // what came was not Kafka, or not acceptable
	ReasonTooLarge  = "too-large" // a frame is larger than the limits
	ReasonVersion   = "version"   // an API or version that is not served
	ReasonHandler   = "handler"   // the handler asked for it
	ReasonPanic     = "panic"     // the handler failed
	ReasonNetwork   = "network"   // reading or writing failed
)
