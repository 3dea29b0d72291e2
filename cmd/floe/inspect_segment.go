package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/tiering"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/segment"
)

func inspectSegmentCommand(p process) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "segment KEY|FILE",
		Short: "Print and verify one segment: header, index, and every checksum",
		Long: "Print one segment and verify every checksum in it. KEY is an object's key, as inspect topic prints it;\n" +
			"FILE is a segment on the local disk, such as DATA/store/seg/..., and needs no settings.",
		Args: exactArgs("KEY or FILE"),
	}
	var batches bool
	cmd.Flags().BoolVar(&batches, "batches", false, "print every record batch too")
	inspection(p, cmd, func(ctx context.Context, v *view, args []string) error {
		if err := v.needs(false, true); err != nil {
			return err
		}
		info, err := v.objects.Head(ctx, args[0])
		if errors.Is(err, objstore.ErrNotFound) {
			return fmt.Errorf("segment %s: not in %s (inspect topic prints the keys)", args[0], v.objects)
		}
		if err != nil {
			return fmt.Errorf("segment %s: %w", args[0], err)
		}
		return printSegment(v, batches, info.Size, func(off tiering.Position, n int64) ([]byte, error) {
			return v.objects.GetRange(ctx, args[0], int64(off), n)
		})
	})
	fromStore := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		info, err := os.Stat(args[0])
		if err != nil || !info.Mode().IsRegular() {
			return fromStore(cmd, args)
		}
		asJSON, err := cmd.Flags().GetBool("json")
		if err != nil {
			return err
		}
		if _, err := settings.Load(cmd.Flags(), p.environ, settings.Inspect); err != nil {
			return err
		}
		return inspectFile(&view{asJSON: asJSON, out: p.stdout}, batches, args[0], info.Size())
	}
	return cmd
}

func inspectFile(v *view, batches bool, name string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("segment: %w", err)
	}
	err = printSegment(v, batches, size, func(off tiering.Position, n int64) ([]byte, error) {
		b := make([]byte, n)
		_, err := io.ReadFull(io.NewSectionReader(f, int64(off), n), b)
		return b, err
	})
	return errors.Join(err, f.Close())
}

func printSegment(v *view, batches bool, size int64, read segment.ReadFunc) error {
	if !v.asJSON {
		return segment.Dump(v.out, size, read, batches)
	}
	seg, err := segment.Open(size, read)
	if err != nil {
		return err
	}
	header, err := seg.ReadHeader(read)
	if err != nil {
		return err
	}
	var damage []error
	for _, e := range seg.Entries {
		if _, err := seg.ReadChunk(e, read); err != nil {
			damage = append(damage, err)
		}
	}
	tree := fields{{"size", size}, {"header", plain(header)}, {"footer", plain(seg.Footer)}, {"chunks", plain(seg.Entries)}}
	return errors.Join(v.print(tree), errors.Join(damage...))
}
