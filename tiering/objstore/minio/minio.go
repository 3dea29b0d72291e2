// Package minio keeps objects in MinIO, and in other stores that speak S3's protocol,
// through minio-go. It differs from package s3 only in the client: whichever of the two
// gets on with a store may be used, on the same objects.
//
// A Put is one PutObject with If-None-Match: * and the CRC-32C of the body, computed up
// front and checked by the store; the payload is not hashed for the signature, which
// covers the checksum. Use https wherever the network is not trusted.
//
// The client's own retries are off: objstore.Retry has a budget for them. All methods
// may be called concurrently.
package minio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	client "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wire"
)

// Config says where the objects are and who asks.
type Config struct {
	Bucket      string // required
	Prefix      string // of all keys, "" for none
	Region      string // "": us-east-1
	Endpoint    string // URL, required
	Connections int    // at most so many; 0: 256

	// Static credentials. Empty: AWS_* or MINIO_* in the environment, AWS's shared
	// file, an instance or task role.
	AccessKey, SecretKey, SessionToken string
}

// Store is an objstore.Store in a bucket. Make one with New.
type Store struct {
	core   *client.Core
	bucket string
	prefix string
	name   string
}

var _ objstore.Store = (*Store)(nil)

// New returns the store. It asks nothing of the bucket.
func New(cfg Config) (*Store, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("minio: no bucket is named")
	}
	prefix, err := s3wire.Prefix(cfg.Prefix)
	if err != nil {
		return nil, fmt.Errorf("minio: %w", err)
	}
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil || endpoint.Host == "" || (endpoint.Scheme != "http" && endpoint.Scheme != "https") {
		return nil, fmt.Errorf("minio: endpoint %q: want a URL such as https://minio.example:9000", cfg.Endpoint)
	}
	region := cfg.Region
	if region == "" {
		region = "us-east-1" // given, so that the client does not ask for it
	}
	transport, err := client.DefaultTransport(endpoint.Scheme == "https")
	if err != nil {
		return nil, fmt.Errorf("minio: %w", err)
	}
	s3wire.Tune(transport, cfg.Connections)
	core, err := client.NewCore(endpoint.Host, &client.Options{
		Creds:        creds(cfg, transport),
		Secure:       endpoint.Scheme == "https",
		Transport:    s3wire.Transport{RoundTripper: transport},
		Region:       region,
		BucketLookup: client.BucketLookupPath,
		MaxRetries:   1,
	})
	if err != nil {
		return nil, fmt.Errorf("minio: %w", err)
	}
	name := fmt.Sprintf("s3://%s at %s://%s", strings.TrimSuffix(cfg.Bucket+"/"+prefix, "/"), endpoint.Scheme, endpoint.Host)
	return &Store{core: core, bucket: cfg.Bucket, prefix: prefix, name: name}, nil
}

func creds(cfg Config, transport http.RoundTripper) *credentials.Credentials {
	if cfg.AccessKey != "" {
		return credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, cfg.SessionToken)
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.EnvMinio{},
		&credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Transport: transport}},
	})
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	options := client.PutObjectOptions{
		// Names of checksum headers are sent as they are, not as user metadata.
		UserMetadata:         map[string]string{"X-Amz-Checksum-Crc32c": s3wire.EncodeSum(body.CRC32C())},
		DisableContentSha256: true,
	}
	options.SetMatchETagExcept("*")
	ctx, giveBack := s3wire.Lend(ctx)
	defer giveBack()
	_, err := s.core.PutObject(ctx, s.bucket, s.prefix+key, body.Reader(), body.Size(), "", "", options)
	if err != nil {
		return fmt.Errorf("minio: put %s: %w", key, wireError(s3wire.Write, err))
	}
	return nil
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := objstore.CheckRange(key, off, n); err != nil {
		return nil, err
	}
	if n == 0 {
		return s.getNothing(ctx, key, off)
	}
	body, length, contentRange, err := s.get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := s3wire.ReadRange(body, length, contentRange, off, n)
	if err != nil {
		return nil, fmt.Errorf("minio: get %s: %w", key, err)
	}
	return data, nil
}

// GetUpTo implements objstore.Store.
func (s *Store) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	if err := objstore.CheckUpTo(key, off, n); err != nil {
		return nil, 0, err
	}
	body, length, contentRange, err := s.get(ctx, key, off, n)
	if err != nil {
		return nil, 0, err
	}
	defer body.Close()
	data, size, err := s3wire.ReadUpTo(body, length, contentRange, off, n)
	if err != nil {
		return nil, 0, fmt.Errorf("minio: get %s: %w", key, err)
	}
	return data, size, nil
}

func (s *Store) get(ctx context.Context, key string, off, n int64) (body io.ReadCloser, length int64, contentRange string, err error) {
	var options client.GetObjectOptions
	options.Set("Range", s3wire.RangeHeader(off, n))
	body, info, header, err := s.core.GetObject(ctx, s.bucket, s.prefix+key, options)
	if err != nil {
		return nil, 0, "", fmt.Errorf("minio: get %s: %w", key, wireError(s3wire.Read, err))
	}
	return body, info.Size, header.Get("Content-Range"), nil
}

// getNothing only checks the place: HTTP cannot ask for no bytes.
func (s *Store) getNothing(ctx context.Context, key string, off int64) ([]byte, error) {
	info, err := s.Head(ctx, key)
	if err != nil {
		return nil, err
	}
	if off > info.Size {
		return nil, fmt.Errorf("minio: get %s: ends at %d, before %d: %w", key, info.Size, off, objstore.ErrCorrupt)
	}
	return []byte{}, nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	o, err := s.core.StatObject(ctx, s.bucket, s.prefix+key, client.StatObjectOptions{Checksum: true})
	if err != nil {
		return objstore.Info{}, fmt.Errorf("minio: head %s: %w", key, wireError(s3wire.Read, err))
	}
	info := objstore.Info{Key: key, Size: o.Size, Modified: o.LastModified}
	info.CRC32C, info.HasCRC = s3wire.DecodeSum(o.ChecksumCRC32C)
	return info, nil
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	owner := false
	options := client.ListObjectsOptions{
		Prefix:     s.prefix + prefix,
		Recursive:  true,
		MaxKeys:    min(limit, s3wire.MaxKeys),
		FetchOwner: &owner,
	}
	if after != "" {
		options.StartAfter = s.prefix + after
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var infos []objstore.Info
	for o := range s.core.ListObjectsIter(ctx, s.bucket, options) {
		if o.Err != nil {
			return nil, fmt.Errorf("minio: list %q: %w", prefix, wireError(s3wire.Read, o.Err))
		}
		infos = append(infos, objstore.Info{
			Key:      strings.TrimPrefix(o.Key, s.prefix),
			Size:     o.Size,
			Modified: o.LastModified,
		})
		if len(infos) == limit {
			return infos, nil
		}
	}
	// The iterator ends early, without an error, when the context does.
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("minio: list %q: %w", prefix, err)
	}
	return infos, nil
}

// Delete implements objstore.Store, in batches of 1000 keys. The error names
// keys that the store did not delete.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := objstore.CheckKey(key); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return err
	}
	objects := func(yield func(client.ObjectInfo) bool) {
		for _, key := range keys {
			if !yield(client.ObjectInfo{Key: s.prefix + key}) {
				return
			}
		}
	}
	results, err := s.core.RemoveObjectsWithIter(ctx, s.bucket, objects, client.RemoveObjectsOptions{})
	if err != nil {
		return fmt.Errorf("minio: delete %d objects: %w", len(keys), wireError(s3wire.Read, err))
	}
	var errs []error
	for r := range results {
		if r.Err == nil || client.ToErrorResponse(r.Err).Code == "NoSuchKey" {
			continue
		}
		key := strings.TrimPrefix(r.ObjectName, s.prefix)
		errs = append(errs, fmt.Errorf("minio: delete %s: %w", key, wireError(s3wire.Read, r.Err)))
	}
	if err := ctx.Err(); err != nil && len(errs) == 0 {
		return fmt.Errorf("minio: delete: %w", err)
	}
	return s3wire.KeyErrors(errs)
}

// String implements objstore.Store.
func (s *Store) String() string { return s.name }

// wireError adds the contract's meaning to an error of the client.
func wireError(op s3wire.Op, err error) error {
	var response client.ErrorResponse
	if !errors.As(err, &response) {
		return err
	}
	return s3wire.Error(op, response.StatusCode, response.Code, err)
}
