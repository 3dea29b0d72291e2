package minio_test

import (
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wiretest"
	"github.com/floelog/floe/tiering/objstore/minio"
)

func TestWire(t *testing.T) {
	s3wiretest.Run(t, func(t *testing.T, endpoint string) objstore.Store {
		s, err := minio.New(minio.Config{
			Bucket: s3wiretest.Bucket, Prefix: "/" + s3wiretest.Prefix + "/", Endpoint: endpoint, AccessKey: "access", SecretKey: "secret",
		})
		if err != nil {
			t.Fatal(err)
		}
		if name := s.String(); !strings.Contains(name, s3wiretest.Bucket+"/"+s3wiretest.Prefix) || strings.Contains(name, "secret") {
			t.Errorf("named %q", name)
		}
		return s
	})
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]minio.Config{
		"bucket":   {Endpoint: "http://h"},
		"prefix":   {Bucket: "b", Endpoint: "http://h", Prefix: "a b"},
		"endpoint": {Bucket: "b", Endpoint: "h:9000"},
	} {
		if _, err := minio.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want a word on the %s", cfg, err, want)
		}
	}
}
