//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// discard serves just enough of the protocol for a producer: any topic exists, every
// batch is acknowledged, nothing is kept. What a client reaches here is its own ceiling.
type discard struct {
	host string
	port int32
}

// discardVersions are the newest versions that it answers, by API key.
var discardVersions = map[int16]int16{
	int16(kmsg.Produce): 9, int16(kmsg.Metadata): 9, int16(kmsg.ApiVersions): 3, int16(kmsg.InitProducerID): 3,
}

// serveDiscard answers connections until l is closed.
func serveDiscard(l net.Listener) error {
	host, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	d := discard{host, int32(n)}
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		conns.Go(func() {
			defer c.Close()
			_ = d.serve(c) // the client hears of it: its connection ends
		})
	}
}

// maxDiscardFrame is more than a client sends in one request.
const maxDiscardFrame = 128 << 20

func (d discard) serve(c net.Conn) error {
	var frame, out []byte
	var size [4]byte
	for {
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(size[:]))
		if n < 10 || n > maxDiscardFrame {
			return fmt.Errorf("frame of %d bytes", n)
		}
		frame = slices.Grow(frame[:0], n)[:n]
		if _, err := io.ReadFull(c, frame); err != nil {
			return err
		}
		resp, err := d.answer(frame)
		if err != nil {
			return err
		}
		out = append(out[:0], 0, 0, 0, 0)
		out = append(out, frame[4:8]...) // correlation id
		if resp.IsFlexible() && resp.Key() != int16(kmsg.ApiVersions) {
			out = append(out, 0) // no tags
		}
		out = resp.AppendTo(out)
		binary.BigEndian.PutUint32(out, uint32(len(out)-4))
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

// answer parses a request and makes its response.
func (d discard) answer(frame []byte) (kmsg.Response, error) {
	key, version := int16(binary.BigEndian.Uint16(frame)), int16(binary.BigEndian.Uint16(frame[2:]))
	if _, known := discardVersions[key]; !known {
		return nil, fmt.Errorf("request of API key %d", key)
	}
	req := kmsg.RequestForKey(key)
	resp := req.ResponseKind()
	if key == int16(kmsg.ApiVersions) {
		// Its header may be of a version that is not known: only the version counts.
		resp.SetVersion(version)
		d.versions(resp.(*kmsg.ApiVersionsResponse))
		return resp, nil
	}
	req.SetVersion(version)
	resp.SetVersion(version)
	body := frame[8:]
	if id := int16(binary.BigEndian.Uint16(body)); id > 0 {
		body = body[min(int(id), len(body)-2):]
	}
	body = body[2:]
	if req.IsFlexible() && len(body) > 0 {
		body = body[1:] // no tags
	}
	if err := req.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("API key %d, version %d: %w", key, version, err)
	}
	switch req := req.(type) {
	case *kmsg.MetadataRequest:
		d.metadata(req, resp.(*kmsg.MetadataResponse))
	case *kmsg.InitProducerIDRequest:
		resp.(*kmsg.InitProducerIDResponse).ProducerID = 1
	case *kmsg.ProduceRequest:
		acknowledge(req, resp.(*kmsg.ProduceResponse))
	}
	return resp, nil
}

func (d discard) versions(resp *kmsg.ApiVersionsResponse) {
	if resp.Version > discardVersions[int16(kmsg.ApiVersions)] {
		resp.SetVersion(0)
		resp.ErrorCode = kerr.UnsupportedVersion.Code
	}
	for key, newest := range discardVersions {
		resp.ApiKeys = append(resp.ApiKeys, kmsg.ApiVersionsResponseApiKey{ApiKey: key, MaxVersion: newest})
	}
}

func (d discard) metadata(req *kmsg.MetadataRequest, resp *kmsg.MetadataResponse) {
	b := kmsg.NewMetadataResponseBroker()
	b.NodeID, b.Host, b.Port = 1, d.host, d.port
	resp.Brokers, resp.ControllerID = append(resp.Brokers, b), 1
	for _, asked := range req.Topics {
		t := kmsg.NewMetadataResponseTopic()
		t.Topic = asked.Topic
		for i := range int32(partitions) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.Replicas, p.ISR = i, 1, []int32{1}, []int32{1}
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
}

func acknowledge(req *kmsg.ProduceRequest, resp *kmsg.ProduceResponse) {
	for _, asked := range req.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic = asked.Topic
		for _, q := range asked.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition = q.Partition
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
}
