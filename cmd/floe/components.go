package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/floelog/floe/cmd/floe/settings"
	"github.com/floelog/floe/metadata/etcd"
	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/open"
)

// newLog returns the process's log.
func newLog(p process, s *settings.Settings) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return nil, fmt.Errorf("log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(p.stderr, opts)), nil
	}
	return slog.New(slog.NewTextHandler(p.stderr, opts)), nil
}

// selfTestRetries let an agent start while the object store throttles or fails now and then, when
// agents are needed most. Not more: who gave a wrong address waits for them to hear of it.
var selfTestRetries = objstore.RetryConfig{Attempts: 5, Cap: time.Second}

// openStore opens the object store at url and tries out whether it can be relied on.
// Its errors name the setting.
func openStore(ctx context.Context, url string) (objstore.Store, error) {
	store, err := open.Open(ctx, url, open.Options{})
	if err != nil {
		return nil, err
	}
	if err := open.SelfTest(ctx, objstore.Retry(store, newRand(), selfTestRetries), rand.Text()); err != nil {
		return nil, fmt.Errorf("%w (give a --store that can, with credentials that may put, get, list and delete)", err)
	}
	return store, nil
}

// dress puts the decorators around a driver, in the order that package objstore explains.
func dress(driver objstore.Store, reg prometheus.Registerer) (objstore.Store, error) {
	metered, err := objstore.Metered(driver, reg)
	if err != nil {
		return nil, err
	}
	hedged, err := objstore.Hedged(metered, objstore.HedgeConfig{}, reg)
	if err != nil {
		return nil, err
	}
	return objstore.Weatherproof(hedged, newRand(), objstore.RetryConfig{}), nil
}

// newRand returns a generator with a seed of its own.
func newRand() *mathrand.Rand {
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails
	return mathrand.New(mathrand.NewPCG(binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])))
}

// openEtcd connects to the etcd that the settings name.
func openEtcd(ctx context.Context, s *settings.Settings, log *slog.Logger) (*etcd.Client, error) {
	cfg := etcd.Config{Endpoints: s.Etcd, Username: s.EtcdUser, Logger: log}
	var err error
	if cfg.TLS, err = etcdTLS(s); err != nil {
		return nil, err
	}
	if s.EtcdPasswordFile != "" {
		password, err := readSecret("etcd-password-file", s.EtcdPasswordFile)
		if err != nil {
			return nil, err
		}
		cfg.Password = strings.TrimRight(string(password), "\r\n")
	}
	client, err := etcd.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w (is it running, and --etcd right?)", err)
	}
	return client, nil
}

func etcdTLS(s *settings.Settings) (*tls.Config, error) {
	if s.EtcdCA == "" && s.EtcdCert == "" {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.EtcdCA != "" {
		pem, err := os.ReadFile(s.EtcdCA)
		if err != nil {
			return nil, fmt.Errorf("etcd-ca: %w (give a PEM file that can be read)", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd-ca: no certificate in %s (give a PEM file)", s.EtcdCA)
		}
	}
	if s.EtcdCert != "" {
		key, err := readSecret("etcd-key", s.EtcdKey)
		if err != nil {
			return nil, err
		}
		cert, err := os.ReadFile(s.EtcdCert)
		if err != nil {
			return nil, fmt.Errorf("etcd-cert: %w (give a PEM file that can be read)", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("etcd-cert: %w (give a certificate and its key, both PEM)", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// rpcTLS returns what both ends of a connection between agents use; nil: no TLS.
func rpcTLS(s *settings.Settings) (*tls.Config, error) {
	if s.RPCCert == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(s.RPCCA)
	if err != nil {
		return nil, fmt.Errorf("rpc-tls-ca: %w (give a PEM file that can be read)", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("rpc-tls-ca: no certificate in %s (give a PEM file)", s.RPCCA)
	}
	key, err := readSecret("rpc-tls-key", s.RPCKey)
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(s.RPCCert)
	if err != nil {
		return nil, fmt.Errorf("rpc-tls-cert: %w (give a PEM file that can be read)", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("rpc-tls-cert: %w (give a certificate and its key, both PEM)", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: authorities,
		ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: s.RPCName}, nil
}

// readSecret reads a file that nobody but its owner and group may read.
func readSecret(setting, name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (give a file that can be read)", setting, err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s: everyone may read %s (chmod o= %s)", setting, name, name)
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s: %w (let the user that runs floe read it)", setting, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return b, nil
}
