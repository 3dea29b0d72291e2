package settings

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"time"
)

var (
	clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	zoneName    = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)
)

// finish derives what was not given and refuses what does not fit together, for cmd.
func (s *Settings) finish(cmd Command) error {
	if !clusterName.MatchString(s.Cluster) {
		return s.wrong("cluster", fmt.Sprintf("%q cannot be part of a key", s.Cluster), "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit")
	}
	switch cmd {
	case Inspect:
		if err := s.checkInspect(); err != nil {
			return err
		}
		return s.checkEtcd()
	case Dev:
		if err := s.checkDev(); err != nil {
			return err
		}
	case Agent:
		if err := s.checkAgent(); err != nil {
			return err
		}
	}
	if err := s.checkAddresses(); err != nil {
		return err
	}
	if s.LeaseTTL%time.Second != 0 {
		return s.wrong("lease-ttl", fmt.Sprintf("%s is not a whole number of seconds", formatDuration(s.LeaseTTL)), "etcd counts leases in seconds: write 3s")
	}
	if err := s.checkGroups(); err != nil {
		return err
	}
	if err := s.checkInterplay(); err != nil {
		return err
	}
	return s.checkSizes()
}

// checkGroups wants time limits of members that can be kept.
func (s *Settings) checkGroups() error {
	if s.GroupMinSessionTimeout > s.GroupMaxSessionTimeout {
		return s.wrong("group-min-session-timeout", fmt.Sprintf("%s is more than group-max-session-timeout, %s", formatDuration(s.GroupMinSessionTimeout), formatDuration(s.GroupMaxSessionTimeout)), "make it shorter, or the other longer")
	}
	if s.ConsumerHeartbeatInterval >= s.ConsumerSessionTimeout {
		return s.wrong("consumer-heartbeat-interval", fmt.Sprintf("members that come every %s are put out after consumer-session-timeout, %s", formatDuration(s.ConsumerHeartbeatInterval), formatDuration(s.ConsumerSessionTimeout)), "make it shorter, a third or less")
	}
	return nil
}

// wrong makes the error about a setting, named as it was given.
func (s *Settings) wrong(name, why, remedy string) error {
	if source, ok := s.sources[name]; ok {
		name = source
	}
	return &Error{Name: name, Why: why, Remedy: remedy}
}

func (s *Settings) given(name string) bool {
	_, ok := s.sources[name]
	return ok
}

// checkInspect wants one place to look at: etcd and store, or the data of floe dev.
func (s *Settings) checkInspect() error {
	if len(s.Etcd) == 0 && s.Store == "" {
		if s.Data == "" {
			return s.wrong("data", "no directory is named", "give --data, or --store and --etcd")
		}
		return nil
	}
	if s.given("data") {
		return s.wrong("data", "it is given beside store or etcd", "give either --data or --store and --etcd")
	}
	return nil
}

func (s *Settings) checkDev() error {
	for _, name := range []string{"etcd", "store"} {
		if s.given(name) {
			return s.wrong(name, "floe dev brings its own "+name, "remove it, or start floe agent")
		}
	}
	if s.Data == "" {
		return s.wrong("data", "no directory is named", "give one, such as --data floe-data")
	}
	for _, name := range []string{"rpc-addr", "rpc-advertise"} {
		if s.Agents > 1 && s.given(name) {
			return s.wrong(name, "several agents cannot share it", "leave it out: each takes a free port")
		}
	}
	return nil
}

func (s *Settings) checkAgent() error {
	if len(s.Etcd) == 0 {
		return s.wrong("etcd", "no etcd is named", "give --etcd HOST:PORT, or try floe dev, which brings its own")
	}
	if s.Store == "" {
		return s.wrong("store", "no object store is named", "give --store 's3://BUCKET/PREFIX?region=REGION' or file:///DIR")
	}
	if err := s.checkEtcd(); err != nil {
		return err
	}
	if (s.RPCCert == "") != (s.RPCKey == "") || (s.RPCCert == "") != (s.RPCCA == "") {
		return s.wrong("rpc-tls-cert", "certificate, key and authority are of use only together", "give --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca")
	}
	if s.RPCName != "" && s.RPCCert == "" {
		return s.wrong("rpc-tls-name", "there is no TLS between agents", "give --rpc-tls-cert, --rpc-tls-key and --rpc-tls-ca, too")
	}
	if !zoneName.MatchString(s.Zone) {
		return s.wrong("zone", fmt.Sprintf("%q has characters that client.rack does not", s.Zone), "up to 64 of A-Z a-z 0-9 . _ -")
	}
	for _, role := range s.Roles {
		if !slices.Contains([]string{"produce", "fetch", "jobs"}, role) {
			return s.wrong("roles", fmt.Sprintf("%q is not a role", role), "write some of produce, fetch, jobs, separated by commas")
		}
	}
	return nil
}

// checkEtcd wants certificate and key, and user and password, together.
func (s *Settings) checkEtcd() error {
	if (s.EtcdCert == "") != (s.EtcdKey == "") {
		return s.wrong("etcd-cert", "certificate and key are of use only together", "give both --etcd-cert and --etcd-key")
	}
	if (s.EtcdUser == "") != (s.EtcdPasswordFile == "") {
		return s.wrong("etcd-user", "user and password are of use only together", "give both --etcd-user and --etcd-password-file")
	}
	return nil
}

func (s *Settings) checkAddresses() error {
	host, port, err := s.hostPort("addr", s.Addr)
	if err != nil {
		return err
	}
	if s.Advertise == "" {
		if unspecified(host) {
			return s.wrong("advertise", "addr "+s.Addr+" is every interface, so clients cannot be told where to connect", "give --advertise HOST:PORT as clients reach it")
		}
		s.Advertise = s.Addr
	}
	advertised, advertisedPort, err := s.hostPort("advertise", s.Advertise)
	if err != nil {
		return err
	}
	if unspecified(advertised) || advertisedPort == 0 && port != 0 {
		return s.wrong("advertise", s.Advertise+" is nothing that a client can connect to", "give the HOST:PORT under which clients reach this agent")
	}
	if s.RPCAddr == "" {
		s.RPCAddr = net.JoinHostPort(host, "0")
	}
	if _, _, err := s.hostPort("rpc-addr", s.RPCAddr); err != nil {
		return err
	}
	if err := s.checkRPCAdvertise(); err != nil {
		return err
	}
	if s.Agents > 1 && int(port)+s.Agents-1 > 65535 {
		return s.wrong("addr", fmt.Sprintf("%d agents from port %d on go beyond 65535", s.Agents, port), "take a lower port")
	}
	if err := s.checkAdmin(); err != nil {
		return err
	}
	return s.checkListeners()
}

// checkRPCAdvertise wants an address that other agents can connect to, if one is given.
func (s *Settings) checkRPCAdvertise() error {
	if s.RPCAdvertise == "" {
		return nil
	}
	host, port, err := s.hostPort("rpc-advertise", s.RPCAdvertise)
	if err != nil {
		return err
	}
	if unspecified(host) || port == 0 {
		return s.wrong("rpc-advertise", s.RPCAdvertise+" is nothing that an agent can connect to", "give the HOST:PORT under which other agents reach this one")
	}
	return nil
}

func (s *Settings) checkAdmin() error {
	if s.AdminAddr == "" {
		return nil
	}
	host, port, err := s.hostPort("admin-addr", s.AdminAddr)
	if err != nil {
		return err
	}
	if !loopback(host) && !s.AdminInsecure {
		return s.wrong("admin-addr", s.AdminAddr+" can be reached by others and asks for no password", "use 127.0.0.1, or set admin-insecure if a network policy protects it")
	}
	if s.Agents > 1 && int(port)+s.Agents-1 > 65535 {
		return s.wrong("admin-addr", fmt.Sprintf("%d agents from port %d on go beyond 65535", s.Agents, port), "take a lower port")
	}
	return nil
}

func (s *Settings) checkSizes() error {
	inFlight := s.RequestMemory()
	if inFlight < 32<<20 {
		return s.wrong("cache-size", fmt.Sprintf("%s and a quarter for answers leave less than 32MiB of the memory-budget of %s for requests", s.CacheSize, s.MemoryBudget), "make it smaller, or the budget larger")
	}
	if s.MaxRequestBytes > inFlight {
		return s.wrong("max-request-bytes", fmt.Sprintf("%s do not fit into what cache-size and a quarter for answers leave of memory-budget, %s", s.MaxRequestBytes, inFlight), "make it smaller, or the budget larger")
	}
	if s.MessageMaxBytes > s.MaxRequestBytes {
		return s.wrong("message-max-bytes", fmt.Sprintf("%s are more than max-request-bytes, %s", s.MessageMaxBytes, s.MaxRequestBytes), "make it smaller, or requests larger")
	}
	if held := s.FlushSize * Bytes(s.UploadsInFlight+1); held > inFlight {
		return s.wrong("flush-size", fmt.Sprintf("%d uploads of %s and the open flush do not fit into what cache-size and a quarter for answers leave of memory-budget, %s", s.UploadsInFlight, s.FlushSize, inFlight), "make flushes smaller or fewer, or the budget larger")
	}
	if s.FetchMaxBytes > s.FetchMemory() {
		return s.wrong("fetch-max-bytes", fmt.Sprintf("%s do not fit into the quarter of memory-budget that answers may take, %s", s.FetchMaxBytes, s.FetchMemory()), "make it smaller, or the budget larger")
	}
	if s.FetchLagging >= s.FetchMemory() {
		return s.wrong("fetch-lagging-memory", fmt.Sprintf("%s leave nothing of the quarter of memory-budget that answers may take, %s", s.FetchLagging, s.FetchMemory()), "make it smaller, or the budget larger")
	}
	if s.NumPartitions > s.MaxPartitions {
		return s.wrong("num-partitions", fmt.Sprintf("%d are more than max-partitions, %d", s.NumPartitions, s.MaxPartitions), "make it smaller, or max-partitions larger")
	}
	if s.InlineMax > s.FlushSize {
		return s.wrong("inline-max", fmt.Sprintf("%s are more than flush-size, %s", s.InlineMax, s.FlushSize), "make it smaller")
	}
	return nil
}

func (s *Settings) hostPort(name, addr string) (host string, port uint16, err error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, s.wrong(name, fmt.Sprintf("%q is not HOST:PORT", addr), "write 127.0.0.1:9092, or [::1]:9092")
	}
	n, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, s.wrong(name, fmt.Sprintf("port %q is not a number up to 65535", service), "write 127.0.0.1:9092")
	}
	return host, uint16(n), nil
}

// unspecified reports whether host stands for every interface.
func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
