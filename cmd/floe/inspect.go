package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/open"
)

func inspectCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inspect",
		Short: "Print segments, shards, topics and the cluster as they are stored",
		Long: "Print segments, shards, topics and the cluster as they are stored. Nothing is changed.\n" +
			"Look at a cluster with --store, --etcd and --cluster, or at a stopped floe dev with --data.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(inspectSegmentCommand(p), inspectShardCommand(p), inspectTopicCommand(p), inspectClusterCommand(p))
	return cmd
}

// view is what an inspection looks at.
type view struct {
	settings *settings.Settings
	meta     metadata.Store // nil where only the store is named
	objects  objstore.Store // nil where only etcd is named
	asJSON   bool
	out      io.Writer
}

// inspection makes a command that opens what the settings name, looks and closes it.
func inspection(p process, cmd *cobra.Command, look func(ctx context.Context, v *view, args []string) error) *cobra.Command {
	asJSON := cmd.Flags().Bool("json", false, "as JSON")
	settings.AddFlags(cmd.Flags(), settings.Inspect)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		s, err := settings.Load(cmd.Flags(), p.environ, settings.Inspect)
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(p)
		defer stop()
		v := &view{settings: s, asJSON: *asJSON, out: p.stdout}
		closeView, err := v.open(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeView()) }()
		return look(ctx, v, args)
	}
	return cmd
}

// open opens etcd and store, or those of a data directory.
func (v *view) open(ctx context.Context) (func() error, error) {
	s := v.settings
	if len(s.Etcd) == 0 && s.Store == "" {
		return v.openData(ctx)
	}
	closeAll := func() error { return nil }
	if s.Store != "" {
		store, err := open.Open(ctx, s.Store, open.Options{})
		if err != nil {
			return nil, err
		}
		v.objects = objstore.Retry(store, newRand(), objstore.RetryConfig{})
	}
	if len(s.Etcd) > 0 {
		client, err := openEtcd(ctx, s, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, err
		}
		v.meta, closeAll = client, client.Close
	}
	return closeAll, nil
}

// openData opens the parts of a data directory that no floe dev is using.
func (v *view) openData(ctx context.Context) (_ func() error, err error) {
	dir := v.settings.Data
	if _, err := os.Stat(filepath.Join(dir, etcdDir)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("data %s: no data of floe dev (give --data, or --store, --etcd and --cluster)", dir)
		}
		return nil, fmt.Errorf("data: %w", err)
	}
	lock, err := lockData(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.release())
		}
	}()
	if err := lock.hold("floe inspect"); err != nil {
		return nil, err
	}
	url, err := devStore(dir)
	if err != nil {
		return nil, err
	}
	if v.objects, err = open.Open(ctx, url, open.Options{}); err != nil {
		return nil, err
	}
	server, err := etcd.StartEmbedded(ctx, etcd.EmbeddedConfig{Dir: filepath.Join(dir, etcdDir)})
	if err != nil {
		return nil, fmt.Errorf("data %s: %w", dir, err)
	}
	v.meta = server.NewClient()
	return func() error { return errors.Join(server.Close(), lock.release()) }, nil
}

// needs says which of the stores an inspection cannot do without.
func (v *view) needs(meta, objects bool) error {
	if meta && v.meta == nil {
		return &settings.Error{Name: "etcd", Why: "no etcd is named", Remedy: "give --etcd HOST:PORT"}
	}
	if objects && v.objects == nil {
		return &settings.Error{Name: "store", Why: "no object store is named", Remedy: "give --store"}
	}
	return nil
}

// print writes a tree as JSON or for people.
func (v *view) print(tree any) error {
	if !v.asJSON {
		return printTree(v.out, tree)
	}
	enc := json.NewEncoder(v.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(tree)
}
