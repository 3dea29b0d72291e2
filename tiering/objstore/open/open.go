// Package open makes the object store that a URL names, and tests whether a store can
// do what Floe relies on. It is the only importer of all drivers. Its functions have no
// state.
package open

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/file"
	"github.com/floelog/floe/tiering/objstore/memory"
	"github.com/floelog/floe/tiering/objstore/minio"
	"github.com/floelog/floe/tiering/objstore/s3"
)

// Options are what does not belong in a URL. All are optional.
type Options struct {
	// Static credentials; without them the driver looks where its kind usually does.
	AccessKey, SecretKey, SessionToken string

	Connections int // to the store, at most; 0: the driver's default
}

// forms says what may be written, for errors.
const forms = "'s3://BUCKET/PREFIX?region=NAME&endpoint=URL&driver=s3|minio', 'file:///DIR' or 'memory:'"

// Open returns the bare driver for rawURL, one of
//
//	s3://BUCKET/PREFIX?region=NAME&endpoint=URL&driver=s3|minio
//	file:///DIR
//	memory:
//
// All parameters are optional, except that driver=minio needs the endpoint. Errors name
// what is wrong and what to write instead; they never hold credentials.
func Open(ctx context.Context, rawURL string, opts Options) (objstore.Store, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// url.Error repeats the URL, which may hold a password.
		return nil, fmt.Errorf("store: not a URL: write %s", forms)
	}
	if u.User != nil {
		return nil, fmt.Errorf("store: a user or password does not belong in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")
	}
	if u.Fragment != "" {
		return nil, fmt.Errorf("store: '#%s' means nothing in a store's URL: remove it", u.Fragment)
	}
	switch u.Scheme {
	case "s3":
		return openS3(ctx, u, opts)
	case "file":
		return openFile(u)
	case "memory":
		if _, err := parameters(u); err != nil {
			return nil, err
		}
		if u.Host != "" || u.Path != "" || u.Opaque != "" {
			return nil, fmt.Errorf("store: memory has no name: write 'memory:'")
		}
		return memory.New(), nil
	}
	return nil, fmt.Errorf("store: unknown scheme %q: write %s", u.Scheme, forms)
}

func openFile(u *url.URL) (objstore.Store, error) {
	if _, err := parameters(u); err != nil {
		return nil, err
	}
	if u.Host != "" && u.Host != "localhost" || u.Opaque != "" || !filepath.IsAbs(filepath.FromSlash(u.Path)) {
		return nil, fmt.Errorf("store: a file URL needs an absolute path: write 'file:///DIR', with three slashes")
	}
	return file.Open(filepath.FromSlash(u.Path))
}

func openS3(ctx context.Context, u *url.URL, opts Options) (objstore.Store, error) {
	p, err := parameters(u, "region", "endpoint", "driver")
	if err != nil {
		return nil, err
	}
	if u.Host == "" {
		return nil, fmt.Errorf("store: no bucket: write 's3://BUCKET/PREFIX'")
	}
	if err := checkEndpoint(p["endpoint"]); err != nil {
		return nil, err
	}
	switch p["driver"] {
	case "", "s3":
		return opened(s3.New(ctx, s3.Config{
			Bucket: u.Host, Prefix: u.Path, Region: p["region"], Endpoint: p["endpoint"], Connections: opts.Connections,
			AccessKey: opts.AccessKey, SecretKey: opts.SecretKey, SessionToken: opts.SessionToken,
		}))
	case "minio":
		if p["endpoint"] == "" {
			return nil, fmt.Errorf("store: driver=minio needs to know where: add endpoint=https://HOST:PORT")
		}
		return opened(minio.New(minio.Config{
			Bucket: u.Host, Prefix: u.Path, Region: p["region"], Endpoint: p["endpoint"], Connections: opts.Connections,
			AccessKey: opts.AccessKey, SecretKey: opts.SecretKey, SessionToken: opts.SessionToken,
		}))
	}
	return nil, fmt.Errorf("store: unknown driver %q: write driver=s3 or driver=minio", p["driver"])
}

// opened keeps a driver's nil pointer out of the interface.
func opened[S objstore.Store](s S, err error) (objstore.Store, error) {
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("store: endpoint is not a URL: write endpoint=https://HOST:PORT")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("store: endpoint has more than scheme, host and port: write endpoint=%s://%s", u.Scheme, u.Host)
	}
	return nil
}

// parameters returns the URL's parameters, all of which must be among known.
func parameters(u *url.URL, known ...string) (map[string]string, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("store: malformed parameters: write NAME=VALUE&NAME=VALUE, with %%26 for & in a value")
	}
	p := map[string]string{}
	for name, values := range query {
		switch {
		case len(known) == 0:
			return nil, fmt.Errorf("store: unknown parameter %q: %s takes none", name, u.Scheme)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("store: unknown parameter %q: %s knows %s", name, u.Scheme, strings.Join(known, ", "))
		case len(values) != 1:
			return nil, fmt.Errorf("store: parameter %q is given %d times: give it once", name, len(values))
		}
		p[name] = values[0]
	}
	return p, nil
}
