package peer

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/floelog/floe/metadata/shard"
)

var (
	secret = []byte("canary-5f2e-the-cluster-secret")
	member = Identity{Cluster: "one", Secret: secret}
)

func TestWhoIsServed(t *testing.T) {
	demand := func() bool { return true }
	for _, tc := range []struct {
		name    string
		as      Identity
		demand  func() bool
		refused string // empty: served
	}{
		{"a member", member, demand, ""},
		{"a member, while tokens are not demanded", member, nil, ""},
		{"one of an older release, while tokens are not demanded", Identity{}, nil, ""},
		{"one of an older release", Identity{}, demand, "no token"},
		{"one without a token", Identity{Cluster: "one"}, demand, "no token"},
		{"one of another cluster", Identity{Cluster: "two", Secret: secret}, nil, "cluster"},
		{"one of another cluster with its own secret", Identity{Cluster: "two", Secret: []byte("x")}, demand, "cluster"},
		{"one with a wrong secret", Identity{Cluster: "one", Secret: []byte("guess")}, demand, "token"},
		{"one with a wrong secret, while tokens are not demanded", Identity{Cluster: "one", Secret: []byte("guess")}, nil, "token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var why []string
			a := &asked{out: []shard.Outcome{{Code: shard.OK, Base: 42}}, body: []byte("yes")}
			g := Guard{Identity: member, Demand: tc.demand, Refused: func(w string) { why = append(why, w) }}
			addr, c := serveAs(t, a, g, tc.as)
			_, err := c.Sequence(t.Context(), addr, 5, &submission)
			_, err2 := c.Ask(t.Context(), addr, Question{Kind: "why"})
			if tc.refused == "" {
				if err != nil || err2 != nil || a.id != 5 {
					t.Errorf("refused: %v, %v", err, err2)
				}
				return
			}
			if !errors.Is(err, ErrRefused) || !errors.Is(err2, ErrRefused) || a.sub != nil || a.question.Kind != "" {
				t.Errorf("served, or another error: %v, %v", err, err2)
			}
			if len(why) != 2 || why[0] != tc.refused || why[1] != tc.refused {
				t.Errorf("refused because of %q, want %q twice", why, tc.refused)
			}
		})
	}
}

// TestTheSecretIsNeverTold looks for the secret, and for what stands for it, in everything that is
// said about an identity.
func TestTheSecretIsNeverTold(t *testing.T) {
	var log bytes.Buffer
	l := slog.New(slog.NewTextHandler(&log, nil))
	l.Info("starting", "as", member, "guard", Guard{Identity: member})
	addr, c := serveAs(t, &asked{}, Guard{Identity: Identity{Cluster: "one", Secret: []byte("another")}}, member)
	_, err := c.Ask(t.Context(), addr, Question{Kind: "why"})
	if !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	said := log.String() + err.Error() + fmt.Sprint(member) + fmt.Sprintf("%v %+v %s", member, member, member)
	for _, canary := range []string{string(secret), member.token(), fmt.Sprint(secret)} {
		if strings.Contains(said, canary) {
			t.Errorf("the secret is told: %s", said)
		}
	}
	if log.Len() == 0 {
		t.Error("nothing was logged")
	}
}

// TestTokensAreOfOneCluster makes sure that the same secret gives another token elsewhere.
func TestTokensAreOfOneCluster(t *testing.T) {
	other := Identity{Cluster: "two", Secret: secret}
	if member.token() == other.token() || len(member.token()) != 64 {
		t.Errorf("tokens %s and %s", member.token(), other.token())
	}
}

// TestWhatIsNotSpokenWasNotDone sends what only newer agents know.
func TestWhatIsNotSpokenWasNotDone(t *testing.T) {
	a := &asked{}
	addr, c := serve(t, a)
	conn, err := c.conn(addr)
	if err != nil {
		t.Fatal(err)
	}
	question := Question{Kind: "why"}.encode()
	question[0]++
	newer := encodeRequest(1, &submission)
	newer[5]++ // the submission's own version
	for name, call := range map[string]struct {
		method string
		in     []byte
	}{
		"a method that is not known": {"Prophesy", question},
		"a newer question":           {askMethod, question},
		"a newer request":            {sequenceMethod, append([]byte{protocolVersion + 1}, newer[1:]...)},
		"a newer submission":         {sequenceMethod, newer},
	} {
		if _, err := invoke(t.Context(), conn, call.method, call.in); !errors.Is(err, ErrNotSpoken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a.sub != nil || a.question.Kind != "" {
		t.Error("something was done")
	}
}

// authority signs certificates of agents, all with one name.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

const agentName = "agent.floe.internal"

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.key, _ = a.make("authority", true)
	return a
}

func (a *authority) make(name string, ca bool) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, signer := a.cert, a.key
	if ca {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if ca {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	return key, der
}

// agent returns what an agent is configured with.
func (a *authority) agent() *tls.Config {
	key, der := a.make(agentName, false)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ClientCAs: pool, ServerName: agentName,
		ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	as := func(c *tls.Config) Identity { return Identity{Cluster: "one", Secret: secret, TLS: c} }
	for name, tc := range map[string]struct {
		client *tls.Config
		served bool
	}{
		"an agent":                               {ours.agent(), true},
		"an agent of another authority":          {theirs.agent(), false},
		"an agent without TLS":                   {nil, false},
		"an agent that shows no certificate":     {&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: ours.agent().RootCAs, ServerName: agentName}, false},
		"an agent that expects another's server": {&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: theirs.agent().RootCAs, ServerName: agentName, Certificates: ours.agent().Certificates}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &asked{body: []byte("yes")}
			addr, c := serveAs(t, a, Guard{Identity: as(ours.agent())}, as(tc.client))
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := c.Ask(ctx, addr, Question{Kind: "why"})
			if (err == nil) != tc.served || (a.question.Kind != "") != tc.served {
				t.Errorf("answered %v, asked %+v, want it served: %v", err, a.question, tc.served)
			}
		})
	}
}
