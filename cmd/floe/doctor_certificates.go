package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/floelog/floe/agent"
	"github.com/floelog/floe/cmd/floe/settings"
)

// certificates says when those that the settings name expire. What cannot be read was refused when
// it was needed.
func certificates(s *settings.Settings) (out []agent.Certificate) {
	for _, c := range []struct{ setting, file string }{{"etcd-cert", s.EtcdCert}, {"etcd-ca", s.EtcdCA}} {
		if c.file == "" {
			continue
		}
		content, err := os.ReadFile(c.file)
		if err != nil {
			continue
		}
		for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
			if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
				out = append(out, agent.Certificate{Setting: c.setting, Expires: cert.NotAfter})
			}
		}
	}
	return out
}
