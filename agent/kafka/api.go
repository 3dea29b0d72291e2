package kafka

import (
	"context"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/floelog/floe/protocol"
)

// api is one API as it is served.
type api struct {
	key, min, max int16
	flexible      int16 // the first version with compact encodings (KIP-482)
	advertised    int16 // the lowest version that ApiVersions names, where not min

	// Exactly one of these serves it: serve gets the decoded request, raw the frame.
	serve func(h *Handler, ctx context.Context, req kmsg.Request) kmsg.Response
	raw   func(h *Handler, ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending
}

// apis is every API that is served; ApiVersions says what stands here. Ranges are those
// of Apache Kafka 4.4's broker listener, whose lower ends are KIP-896's.
var apis = []api{
	// Kafka, too, names Produce from version 0 on, although it serves it from 3 on: older
	// librdkafka takes a higher minimum for a broker without compression (KAFKA-18659).
	{key: 0, min: 3, max: 13, flexible: 9, advertised: 0, raw: (*Handler).produce},
	{key: 1, min: 4, max: 18, flexible: 12, advertised: 4, raw: (*Handler).fetch},
	{key: 2, min: 1, max: 11, flexible: 6, advertised: 1, serve: decoded((*Handler).listOffsets)},
	{key: 3, min: 0, max: 13, flexible: 9, advertised: 0, raw: asked((*Handler).metadata)},
	{key: 8, min: 2, max: 10, flexible: 8, advertised: 2, raw: coordinated((*Handler).offsetCommit)},
	{key: 9, min: 1, max: 10, flexible: 6, advertised: 1, raw: coordinated((*Handler).offsetFetch)},
	{key: 10, min: 0, max: 6, flexible: 3, advertised: 0, raw: asked((*Handler).findCoordinator)},
	{key: 11, min: 0, max: 9, flexible: 6, advertised: 0, raw: coordinated((*Handler).joinGroup)},
	{key: 12, min: 0, max: 4, flexible: 4, advertised: 0, raw: coordinated((*Handler).heartbeat)},
	{key: 13, min: 0, max: 5, flexible: 4, advertised: 0, raw: coordinated((*Handler).leaveGroup)},
	{key: 14, min: 0, max: 5, flexible: 4, advertised: 0, raw: coordinated((*Handler).syncGroup)},
	{key: 15, min: 0, max: 6, flexible: 5, advertised: 0, raw: coordinated((*Handler).describeGroups)},
	{key: 16, min: 0, max: 5, flexible: 3, advertised: 0, raw: coordinated((*Handler).listGroups)},
	{key: 18, min: 0, max: 5, flexible: 3, advertised: 0, raw: (*Handler).apiVersions},
	{key: 19, min: 2, max: 7, flexible: 5, advertised: 2, serve: decoded((*Handler).createTopics)},
	{key: 20, min: 1, max: 6, flexible: 4, advertised: 1, serve: decoded((*Handler).deleteTopics)},
	{key: 21, min: 0, max: 2, flexible: 2, advertised: 0, serve: decoded((*Handler).deleteRecords)},
	{key: 22, min: 0, max: 5, flexible: 2, advertised: 0, raw: coordinated((*Handler).initProducerID)},
	{key: 23, min: 2, max: 4, flexible: 4, advertised: 2, serve: decoded((*Handler).offsetForLeaderEpoch)},
	{key: 24, min: 0, max: 5, flexible: 3, advertised: 0, serve: decoded((*Handler).addPartitionsToTxn)},
	{key: 25, min: 0, max: 4, flexible: 3, advertised: 0, serve: decoded((*Handler).addOffsetsToTxn)},
	{key: 26, min: 0, max: 5, flexible: 3, advertised: 0, raw: coordinated((*Handler).endTxn)},
	{key: 27, min: 1, max: 2, flexible: 1, advertised: 1, serve: decoded((*Handler).writeTxnMarkers)},
	{key: 28, min: 0, max: 6, flexible: 3, advertised: 0, raw: coordinated((*Handler).txnOffsetCommit)},
	{key: 32, min: 1, max: 4, flexible: 4, advertised: 1, serve: decoded((*Handler).describeConfigs)},
	{key: 33, min: 0, max: 2, flexible: 2, advertised: 0, serve: decoded((*Handler).alterConfigs)},
	{key: 35, min: 1, max: 5, flexible: 2, advertised: 1, serve: decoded((*Handler).describeLogDirs)},
	{key: 37, min: 0, max: 3, flexible: 2, advertised: 0, serve: decoded((*Handler).createPartitions)},
	{key: 42, min: 0, max: 3, flexible: 2, advertised: 0, raw: coordinated((*Handler).deleteGroups)},
	{key: 44, min: 0, max: 1, flexible: 1, advertised: 0, serve: decoded((*Handler).incrementalAlterConfigs)},
	{key: 47, min: 0, max: 0, flexible: 1, advertised: 0, raw: coordinated((*Handler).offsetDelete)},
	{key: 60, min: 0, max: 2, flexible: 0, advertised: 0, raw: asked((*Handler).describeCluster)},
	{key: 61, min: 0, max: 0, flexible: 0, advertised: 0, serve: decoded((*Handler).describeProducers)},
	{key: 65, min: 0, max: 0, flexible: 0, advertised: 0, raw: coordinated((*Handler).describeTransactions)},
	{key: 66, min: 0, max: 2, flexible: 0, advertised: 0, raw: coordinated((*Handler).listTransactions)},
	{key: 68, min: 0, max: 1, flexible: 0, advertised: 0, raw: coordinated((*Handler).consumerGroupHeartbeat)},
	{key: 69, min: 0, max: 1, flexible: 0, advertised: 0, raw: coordinated((*Handler).consumerGroupDescribe)},
	{key: 75, min: 0, max: 0, flexible: 0, advertised: 0, raw: asked((*Handler).describeTopicPartitions)},
}

// decoded adapts a handler of one kind of request.
func decoded[R kmsg.Request](f func(*Handler, context.Context, R) kmsg.Response) func(*Handler, context.Context, kmsg.Request) kmsg.Response {
	return func(h *Handler, ctx context.Context, req kmsg.Request) kmsg.Response { return f(h, ctx, req.(R)) }
}

// asked adapts a handler of one kind of request whose answer depends on who asks.
func asked[R kmsg.Request](f func(*Handler, context.Context, asker, R) kmsg.Response) func(*Handler, context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending {
	return func(h *Handler, ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
		req, err := protocol.DecodeRequest(r)
		if err != nil {
			return malformed()
		}
		return answer(f(h, ctx, h.asker(c, r.ClientID, ""), req.(R)))
	}
}

// coordinated adapts a handler of one kind of request that coordinators are told the sender of.
func coordinated[R kmsg.Request](f func(*Handler, context.Context, From, R) kmsg.Response) func(*Handler, context.Context, *protocol.Conn, *protocol.Request) *protocol.Pending {
	return func(h *Handler, ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
		req, err := protocol.DecodeRequest(r)
		if err != nil {
			return malformed()
		}
		if rack := rackTold(req); rack != "" {
			h.asker(c, r.ClientID, rack) // which the connection remembers
		}
		return answer(f(h, ctx, sender(c, r), req.(R)))
	}
}

// sender says who sent a request.
func sender(c *protocol.Conn, r *protocol.Request) From {
	from := From{ClientID: r.ClientID}
	if c != nil {
		host := c.RemoteAddr().String()
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		from.Host = "/" + host
	}
	return from
}

// lookup returns what serves an API key, or nil.
func (h *Handler) lookup(key int16) *api {
	for i := range h.apis {
		if h.apis[i].key == key {
			return &h.apis[i]
		}
	}
	return nil
}

// Versions returns the range of versions that are served of an API. See protocol.Handler.
func (h *Handler) Versions(key int16) (lowest, highest int16, ok bool) {
	a := h.lookup(key)
	if a == nil {
		return 0, 0, false
	}
	return a.min, a.max, true
}

// Serve serves one request. See protocol.Handler.
func (h *Handler) Serve(ctx context.Context, c *protocol.Conn, r *protocol.Request) *protocol.Pending {
	a := h.lookup(r.Key)
	if a == nil || r.Version < a.min || r.Version > a.max { // the connection does not let it come to this
		return protocol.Answer(protocol.Response{Close: true})
	}
	if a.raw != nil {
		return a.raw(h, ctx, c, r)
	}
	req, err := protocol.DecodeRequest(r)
	if err != nil {
		return malformed()
	}
	return answer(a.serve(h, ctx, req))
}

// malformed ends a connection whose bytes cannot be trusted any more.
func malformed() *protocol.Pending {
	return protocol.Answer(protocol.Response{Close: true, None: true})
}

// answer encodes a response.
func answer(resp kmsg.Response) *protocol.Pending {
	return protocol.Answer(protocol.Response{Buffers: net.Buffers{resp.AppendTo(nil)}, ErrorCode: firstError(resp)})
}

// checkTable reports what is wrong with a table of APIs.
func checkTable(table []api) error {
	seen := map[int16]bool{}
	for _, a := range table {
		switch {
		case seen[a.key]:
			return fmt.Errorf("API key %d is registered twice", a.key)
		case a.min < 0 || a.max < a.min || a.advertised > a.min:
			return fmt.Errorf("API key %d: versions %d to %d, advertised from %d", a.key, a.min, a.max, a.advertised)
		case (a.serve == nil) == (a.raw == nil):
			return fmt.Errorf("API key %d: want exactly one handler", a.key)
		}
		seen[a.key] = true
	}
	return nil
}
