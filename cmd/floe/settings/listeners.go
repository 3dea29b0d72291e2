package settings

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
)

// Listener is a listener for Kafka clients beside the one of addr.
type Listener struct {
	Name       string
	Addr       string // HOST:PORT to listen on
	Advertise  string // HOST:PORT that its clients are told
	ClientZone string // one of clientZones
}

var (
	listenerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	// clientZones are the ways to find a client's zone, the default first; see package
	// agent/kafka.
	clientZones = []string{"client", "agent", "client-else-agent", "none"}
)

// defaultListener is the name that the listener of addr has in metrics and logs.
const defaultListener = "kafka"

// The options of a listener. They cannot be names of listeners: so a list of listeners and
// options separated by commas can be read without brackets.
const (
	optionAdvertise  = "advertise"
	optionClientZone = "client-zone"
)

// checkListeners reads NAME=HOST:PORT[,advertise=HOST:PORT][,client-zone=MODE], as often as it
// is there, into Listeners: an option belongs to the listener before it.
func (s *Settings) checkListeners() error {
	s.Listeners = nil
	given := map[string]bool{} // options of the last listener
	for _, item := range s.Listener {
		key, value, ok := strings.Cut(item, "=")
		if !ok {
			return s.wrongListener(fmt.Sprintf("%q is no NAME=HOST:PORT", item))
		}
		if key != optionAdvertise && key != optionClientZone {
			if err := s.addListener(item, key, value); err != nil {
				return err
			}
			clear(given)
			continue
		}
		if len(s.Listeners) == 0 {
			return s.wrongListener(fmt.Sprintf("%q has no listener before it", item))
		}
		l := &s.Listeners[len(s.Listeners)-1]
		if given[key] {
			return s.wrongListener(fmt.Sprintf("listener %s has %s twice", l.Name, key))
		}
		given[key] = true
		if key == optionAdvertise {
			l.Advertise = value
			continue
		}
		if !slices.Contains(clientZones, value) {
			return s.wrong("listener", fmt.Sprintf("client-zone of listener %s is %q", l.Name, value), "write "+strings.Join(clientZones, ", "))
		}
		l.ClientZone = value
	}
	for i := range s.Listeners {
		if err := s.checkListener(&s.Listeners[i]); err != nil {
			return err
		}
	}
	return s.checkPorts()
}

func (s *Settings) wrongListener(why string) error {
	return s.wrong("listener", why, "write NAME=HOST:PORT[,advertise=HOST:PORT][,client-zone=MODE]")
}

// addListener takes a listener's name and address.
func (s *Settings) addListener(item, name, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return s.wrongListener(fmt.Sprintf("%q is neither a listener nor one of the options advertise and client-zone", item))
	}
	if !listenerName.MatchString(name) {
		return s.wrong("listener", fmt.Sprintf("%q cannot be a listener's name", name), "1 to 64 of A-Z a-z 0-9 _ -")
	}
	if strings.EqualFold(name, defaultListener) {
		return s.wrong("listener", fmt.Sprintf("%s is the name of the listener of addr", name), "give it another name")
	}
	for _, l := range s.Listeners {
		if strings.EqualFold(l.Name, name) {
			return s.wrong("listener", fmt.Sprintf("there are two listeners %s", name), "give each a name of its own")
		}
	}
	s.Listeners = append(s.Listeners, Listener{Name: name, Addr: addr, ClientZone: s.ClientZone})
	return nil
}

// checkListener wants addresses that can be listened on and connected to.
func (s *Settings) checkListener(l *Listener) error {
	host, port, err := s.hostPort("listener", l.Addr)
	if err != nil {
		return err
	}
	if l.Advertise == "" {
		if unspecified(host) {
			return s.wrong("listener", fmt.Sprintf("%s on %s is every interface, so its clients cannot be told where to connect", l.Name, l.Addr), "add advertise=HOST:PORT as clients reach it")
		}
		l.Advertise = l.Addr
	}
	advertised, advertisedPort, err := s.hostPort("listener", l.Advertise)
	if err != nil {
		return err
	}
	if unspecified(advertised) || advertisedPort == 0 && port != 0 {
		return s.wrong("listener", fmt.Sprintf("listener %s advertises %s, which is nothing that a client can connect to", l.Name, l.Advertise), "give the HOST:PORT under which its clients reach this agent")
	}
	if int(port)+s.Agents-1 > 65535 {
		return s.wrong("listener", fmt.Sprintf("%d agents from port %d on go beyond 65535", s.Agents, port), "take a lower port")
	}
	return nil
}

// checkPorts refuses two listeners on one port. Each may be every interface, or another name
// of the same one, so the hosts tell apart only what are different addresses.
func (s *Settings) checkPorts() error {
	type place struct {
		what, host string
		port       int
	}
	var taken []place
	add := func(what, setting, addr string) error {
		if addr == "" {
			return nil
		}
		host, port, err := s.hostPort(setting, addr)
		if err != nil {
			return err
		}
		p := place{what, host, int(port)}
		for _, t := range taken {
			apart := p.port - t.port
			same := p.host == t.host || unspecified(p.host) || unspecified(t.host)
			if p.port != 0 && t.port != 0 && same && max(apart, -apart) < max(s.Agents, 1) {
				return s.wrong("listener", fmt.Sprintf("%s and %s want the same port: %s", t.what, what, addr), "give each a port of its own")
			}
		}
		taken = append(taken, p)
		return nil
	}
	for _, l := range s.Listeners {
		if err := add("listener "+l.Name, "listener", l.Addr); err != nil {
			return err
		}
	}
	if len(s.Listeners) == 0 {
		return nil
	}
	for _, other := range []struct{ setting, addr string }{{"addr", s.Addr}, {"rpc-addr", s.RPCAddr}, {"admin-addr", s.AdminAddr}} {
		if err := add(other.setting, other.setting, other.addr); err != nil {
			return err
		}
	}
	return nil
}
