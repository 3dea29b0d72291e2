package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// remote is a running cluster, Floe's or any other that speaks Kafka's protocol, as a
// command sees it, and where the command's output goes.
type remote struct {
	client *kgo.Client
	admin  *kadm.Client
	served map[int16]int16 // highest version of each API
	now    time.Time       // when the command was started
	out    io.Writer
	asJSON bool
}

const (
	defaultBootstrap = "127.0.0.1:9092" // where floe dev listens
	// defaultPatience covers a coordinator that moves, which takes a lease and some seconds.
	defaultPatience = 30 * time.Second
	// dialPatience is for one address. Longer only delays the error about an address that
	// is wrong; less fails over a slow link.
	dialPatience = 5 * time.Second
	// clientName is what the cluster's logs and metrics call these commands.
	clientName    = "floe-cli"
	clientVersion = "1"
)

// remoteCommand makes a command that connects to a cluster, works and disconnects. What
// can be checked without the cluster is checked in cmd.PreRunE.
func remoteCommand(p process, cmd *cobra.Command, work func(ctx context.Context, r *remote, args []string) error) *cobra.Command {
	bootstrap := cmd.Flags().StringSlice("bootstrap", []string{defaultBootstrap}, "agents to ask first, as `HOST:PORT[,...]`")
	patience := cmd.Flags().Duration("timeout", defaultPatience, "`time` after which the command gives up")
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if err := checkRemote(*bootstrap, *patience); err != nil || check == nil {
			return err
		}
		return check(cmd, args)
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
		defer stop()
		ctx, cancel := context.WithTimeout(ctx, *patience)
		defer cancel()
		r := &remote{now: time.Now(), out: p.stdout, asJSON: *asJSON}
		if err := r.connect(ctx, *bootstrap, *patience); err != nil {
			return err
		}
		defer r.client.Close()
		err := work(ctx, r, args)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("gave up after %v: %w (--timeout gives it more time)", *patience, err)
		}
		return err
	}
	return cmd
}

// checkRemote checks the flags that all these commands have.
func checkRemote(bootstrap []string, patience time.Duration) error {
	if len(bootstrap) == 0 {
		return usageError{errors.New("--bootstrap: no address is given (write --bootstrap HOST:PORT)")}
	}
	for _, addr := range bootstrap {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return usageError{fmt.Errorf("--bootstrap: %q is not HOST:PORT (write %s, or [::1]:9092)", addr, defaultBootstrap)}
		}
	}
	if patience <= 0 {
		return usageError{fmt.Errorf("--timeout: %v is no time (write %v)", patience, defaultPatience)}
	}
	return nil
}

// connect finds a node that answers and learns what it serves. An address where nobody
// listens is an error at once, not when the client's retries are used up.
func (r *remote) connect(ctx context.Context, bootstrap []string, patience time.Duration) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap...),
		kgo.ClientID(clientName),
		kgo.SoftwareNameAndVersion(clientName, clientVersion),
		kgo.DialTimeout(min(dialPatience, patience)),
		// Less than the command's own time, so that the last error is told, not the time-out.
		kgo.RetryTimeout(patience*2/3),
		kgo.MetadataMinAge(100*time.Millisecond),
	)
	if err != nil {
		return fmt.Errorf("--bootstrap: %w", err)
	}
	var failed error
	for i, seed := range client.SeedBrokers() {
		if r.served, err = apiVersions(ctx, seed); err == nil {
			r.client, r.admin = client, kadm.NewClient(client)
			return nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %w", bootstrap[i], err))
	}
	client.Close()
	return fmt.Errorf("--bootstrap: no agent answers: %w (give --bootstrap HOST:PORT of one that runs)", failed)
}

// apiVersions asks a node for the highest version of each API that it serves.
func apiVersions(ctx context.Context, from *kgo.Broker) (map[int16]int16, error) {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = clientName, clientVersion
	resp, err := req.RequestWith(ctx, from)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return nil, err
	}
	served := map[int16]int16{}
	for _, k := range resp.ApiKeys {
		served[k.ApiKey] = k.MaxVersion
	}
	return served, nil
}

// serves reports whether the cluster serves a version of an API.
func (r *remote) serves(req kmsg.Request, version int16) bool {
	highest, ok := r.served[req.Key()]
	return ok && highest >= version
}

// topics returns the topics of these names, or all, that there are.
func (r *remote) topics(ctx context.Context, names ...string) (kadm.TopicsSet, error) {
	m, err := r.admin.Metadata(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("asking for topics: %w", told(err))
	}
	for _, t := range m.Topics {
		switch {
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			delete(m.Topics, t.Topic)
		case t.Err != nil:
			return nil, fmt.Errorf("asking for topic %s: %w", t.Topic, t.Err)
		}
	}
	return m.Topics.TopicsSet(), nil
}

// told makes one error of what several nodes said.
func told(err error) error {
	var shards *kadm.ShardErrors
	if !errors.As(err, &shards) || len(shards.Errs) == 0 {
		return err
	}
	e := shards.Errs[0]
	if e.Broker.NodeID < 0 {
		return e.Err
	}
	return fmt.Errorf("node %d: %w", e.Broker.NodeID, e.Err)
}
