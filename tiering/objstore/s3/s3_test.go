package s3_test

import (
	"strings"
	"testing"

	"github.com/floelog/floe/tiering/objstore"
	"github.com/floelog/floe/tiering/objstore/internal/s3wiretest"
	"github.com/floelog/floe/tiering/objstore/s3"
)

func TestWire(t *testing.T) {
	s3wiretest.Run(t, func(t *testing.T, endpoint string) objstore.Store {
		s, err := s3.New(t.Context(), s3.Config{
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
	for want, cfg := range map[string]s3.Config{
		"bucket": {Region: "r"},
		"prefix": {Bucket: "b", Region: "r", Prefix: "a b"},
	} {
		if _, err := s3.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want a word on the %s", cfg, err, want)
		}
	}
}

func TestRegionIsNeededForAWS(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	if _, err := s3.New(t.Context(), s3.Config{Bucket: "b"}); err == nil || !strings.Contains(err.Error(), "?region=") {
		t.Errorf("no region: %v, want the remedy", err)
	}
	if _, err := s3.New(t.Context(), s3.Config{Bucket: "b", Region: "eu-west-1"}); err != nil {
		t.Error(err)
	}
}
