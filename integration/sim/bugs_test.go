package sim

import (
	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/agent/kafka"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/tiering/objstore"
)

// plant is a bug that is planted between an agent and the world around it. The zero value
// plants nothing.
type plant struct {
	wrapMeta     func(*world, *process, metadata.Store) metadata.Store
	wrapObjects  func(*world, *process, objstore.Store) objstore.Store
	wrapPeers    func(*world, *process, agent.Peers) agent.Peers
	wrapProducer func(*world, *process, kafka.Producer) kafka.Producer
	wrapReader   func(*world, *process, kafka.Reader) kafka.Reader
}

func (p *plant) meta(w *world, of *process, s metadata.Store) metadata.Store {
	if p.wrapMeta == nil {
		return s
	}
	return p.wrapMeta(w, of, s)
}

func (p *plant) objects(w *world, of *process, s objstore.Store) objstore.Store {
	if p.wrapObjects == nil {
		return s
	}
	return p.wrapObjects(w, of, s)
}

func (p *plant) peers(w *world, of *process, s agent.Peers) agent.Peers {
	if p.wrapPeers == nil {
		return s
	}
	return p.wrapPeers(w, of, s)
}

func (p *plant) producer(w *world, of *process) kafka.Producer {
	if p.wrapProducer == nil {
		return of.ports().Producer
	}
	return p.wrapProducer(w, of, of.ports().Producer)
}

func (p *plant) reader(w *world, of *process) kafka.Reader {
	if p.wrapReader == nil {
		return of.ports().Reader
	}
	return p.wrapReader(w, of, of.ports().Reader)
}
