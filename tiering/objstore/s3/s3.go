// Package s3 keeps objects in Amazon S3, or in what speaks its protocol, through
// aws-sdk-go-v2.
//
// A Put is one PutObject with If-None-Match: * and the CRC-32C of the body, computed up
// front and checked by the store. Its payload is not hashed for the signature
// (UNSIGNED-PAYLOAD): the checksum is signed and covers it, and SHA-256 would cost more
// than everything else here. Use https wherever the network is not trusted.
//
// The SDK's own retries are off: objstore.Retry has a budget for them. All methods may
// be called concurrently.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wire"
)

// Config says where the objects are and who asks.
type Config struct {
	Bucket      string // required
	Prefix      string // of all keys, "" for none
	Region      string // "": from the SDK's chain, or us-east-1 with an Endpoint
	Endpoint    string // URL of another store than AWS, which gets path-style requests
	Connections int    // at most so many; 0: 256

	// Static credentials. Empty: the SDK's default chain (environment, shared files,
	// web identity, instance or task role).
	AccessKey, SecretKey, SessionToken string
}

// Store is an objstore.Store in a bucket. Make one with New.
type Store struct {
	client *awss3.Client
	bucket string
	prefix string
	name   string
}

var _ objstore.Store = (*Store)(nil)

// New returns the store. It loads the configuration, but asks nothing of the bucket.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Bucket == "" {
		return nil, errors.New("s3: no bucket is named")
	}
	prefix, err := s3wire.Prefix(cfg.Prefix)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	loaded, err := load(ctx, cfg)
	if err != nil {
		return nil, err
	}
	client := awss3.NewFromConfig(loaded, func(o *awss3.Options) {
		o.HTTPClient = watching{o.HTTPClient}
		o.Retryer = aws.NopRetryer{}
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.ContinueHeaderThresholdBytes = -1 // a round trip saved in every acknowledgement
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
			o.UsePathStyle = true
		}
	})
	name := "s3://" + strings.TrimSuffix(cfg.Bucket+"/"+prefix, "/")
	if cfg.Endpoint != "" {
		name += " at " + cfg.Endpoint
	}
	return &Store{client: client, bucket: cfg.Bucket, prefix: prefix, name: name}, nil
}

func load(ctx context.Context, cfg Config) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		// The SDK's own kind of client, for AWS_CA_BUNDLE is added to no other.
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			s3wire.Tune(t, cfg.Connections)
		})),
	}
	if cfg.Region != "" {
		options = append(options, config.WithRegion(cfg.Region))
	}
	if cfg.AccessKey != "" {
		static := credentials.NewStaticCredentialsProvider(cfg.AccessKey, cfg.SecretKey, cfg.SessionToken)
		options = append(options, config.WithCredentialsProvider(static))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return loaded, fmt.Errorf("s3: load AWS configuration: %w", err)
	}
	if loaded.Region == "" && cfg.Endpoint != "" {
		loaded.Region = "us-east-1" // only signed, never used for routing
	}
	if loaded.Region == "" {
		return loaded, errors.New("s3: the region of the bucket is not known: add ?region=NAME to the store's URL or set AWS_REGION")
	}
	return loaded, nil
}

// watching lets Put wait for its body, and heeds Retry-After.
type watching struct{ awss3.HTTPClient }

// Do implements the SDK's HTTPClient.
func (w watching) Do(req *http.Request) (*http.Response, error) {
	resp, err := w.HTTPClient.Do(s3wire.Watch(req))
	if err == nil {
		s3wire.NoteRetryAfter(req, resp)
	}
	return resp, err
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body objstore.Body) error {
	if err := objstore.CheckKey(key); err != nil {
		return err
	}
	ctx, giveBack := s3wire.Lend(ctx)
	defer giveBack()
	_, err := s.client.PutObject(ctx, &awss3.PutObjectInput{
		Bucket:         &s.bucket,
		Key:            s.key(key),
		Body:           body.Reader(),
		ContentLength:  aws.Int64(body.Size()),
		ContentType:    aws.String("application/octet-stream"),
		ChecksumCRC32C: aws.String(s3wire.EncodeSum(body.CRC32C())),
		IfNoneMatch:    aws.String("*"),
	}, awss3.WithAPIOptions(v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware))
	if err != nil {
		return fmt.Errorf("s3: put %s: %w", key, wireError(s3wire.Write, err))
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
	out, err := s.get(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	data, err := s3wire.ReadRange(out.Body, aws.ToInt64(out.ContentLength), aws.ToString(out.ContentRange), off, n)
	if err != nil {
		return nil, fmt.Errorf("s3: get %s: %w", key, err)
	}
	return data, nil
}

// GetUpTo implements objstore.Store.
func (s *Store) GetUpTo(ctx context.Context, key string, off, n int64) (objstore.Body, int64, error) {
	if err := objstore.CheckUpTo(key, off, n); err != nil {
		return nil, 0, err
	}
	out, err := s.get(ctx, key, off, n)
	if err != nil {
		return nil, 0, err
	}
	defer out.Body.Close()
	data, size, err := s3wire.ReadUpTo(out.Body, aws.ToInt64(out.ContentLength), aws.ToString(out.ContentRange), off, n)
	if err != nil {
		return nil, 0, fmt.Errorf("s3: get %s: %w", key, err)
	}
	return data, size, nil
}

func (s *Store) get(ctx context.Context, key string, off, n int64) (*awss3.GetObjectOutput, error) {
	out, err := s.client.GetObject(ctx, &awss3.GetObjectInput{
		Bucket: &s.bucket,
		Key:    s.key(key),
		Range:  aws.String(s3wire.RangeHeader(off, n)),
	})
	if err != nil {
		return nil, fmt.Errorf("s3: get %s: %w", key, wireError(s3wire.Read, err))
	}
	return out, nil
}

// getNothing only checks the place: HTTP cannot ask for no bytes.
func (s *Store) getNothing(ctx context.Context, key string, off int64) ([]byte, error) {
	info, err := s.Head(ctx, key)
	if err != nil {
		return nil, err
	}
	if off > info.Size {
		return nil, fmt.Errorf("s3: get %s: ends at %d, before %d: %w", key, info.Size, off, objstore.ErrCorrupt)
	}
	return []byte{}, nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.Info, error) {
	if err := objstore.CheckKey(key); err != nil {
		return objstore.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &awss3.HeadObjectInput{
		Bucket:       &s.bucket,
		Key:          s.key(key),
		ChecksumMode: types.ChecksumModeEnabled,
	})
	if err != nil {
		return objstore.Info{}, fmt.Errorf("s3: head %s: %w", key, wireError(s3wire.Read, err))
	}
	info := objstore.Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified)}
	info.CRC32C, info.HasCRC = s3wire.DecodeSum(aws.ToString(out.ChecksumCRC32C))
	return info, nil
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	if err := objstore.CheckPrefix(prefix); err != nil {
		return nil, err
	}
	in := &awss3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(prefix)}
	if after != "" {
		in.StartAfter = s.key(after)
	}
	if limit <= 0 {
		return nil, ctx.Err()
	}
	var infos []objstore.Info
	for {
		in.MaxKeys = aws.Int32(int32(min(limit-len(infos), s3wire.MaxKeys)))
		out, err := s.client.ListObjectsV2(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("s3: list %q: %w", prefix, wireError(s3wire.Read, err))
		}
		for _, o := range out.Contents {
			infos = append(infos, objstore.Info{
				Key:      strings.TrimPrefix(aws.ToString(o.Key), s.prefix),
				Size:     aws.ToInt64(o.Size),
				Modified: aws.ToTime(o.LastModified),
			})
		}
		if len(infos) >= limit || !aws.ToBool(out.IsTruncated) {
			return infos[:min(limit, len(infos))], nil
		}
		token := aws.ToString(out.NextContinuationToken)
		if token == "" || token == aws.ToString(in.ContinuationToken) {
			return nil, fmt.Errorf("s3: list %q: the store repeats a page", prefix)
		}
		in.ContinuationToken = &token
	}
}

// Delete implements objstore.Store, in batches of 1000 keys. The error names
// keys that the store refused to delete.
func (s *Store) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := objstore.CheckKey(key); err != nil {
			return err
		}
	}
	for len(keys) > 0 {
		n := min(len(keys), s3wire.MaxKeys)
		if err := s.deleteBatch(ctx, keys[:n]); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

func (s *Store) deleteBatch(ctx context.Context, keys []string) error {
	batch := &types.Delete{Quiet: aws.Bool(true), Objects: make([]types.ObjectIdentifier, len(keys))}
	for i, key := range keys {
		batch.Objects[i].Key = s.key(key)
	}
	out, err := s.client.DeleteObjects(ctx, &awss3.DeleteObjectsInput{Bucket: &s.bucket, Delete: batch})
	if err != nil {
		return fmt.Errorf("s3: delete %d objects: %w", len(keys), wireError(s3wire.Read, err))
	}
	var errs []error
	for _, e := range out.Errors {
		code := aws.ToString(e.Code)
		if code == "NoSuchKey" {
			continue
		}
		key := strings.TrimPrefix(aws.ToString(e.Key), s.prefix)
		err := fmt.Errorf("%s: %s", code, aws.ToString(e.Message))
		errs = append(errs, fmt.Errorf("s3: delete %s: %w", key, s3wire.Error(s3wire.Read, 0, code, err)))
	}
	return s3wire.KeyErrors(errs)
}

// String implements objstore.Store.
func (s *Store) String() string { return s.name }

func (s *Store) key(key string) *string { return aws.String(s.prefix + key) }

// wireError adds the contract's meaning to an error of the SDK.
func wireError(op s3wire.Op, err error) error {
	var status int
	var code string
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		status = response.HTTPStatusCode()
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	return s3wire.Error(op, status, code, err)
}
