package peer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// ErrNotSpoken says that the other agent does not know the method, or the version of the
// message: it is of an older release. Nothing was done.
var ErrNotSpoken = errors.New("the agent is of a release that does not know this request")

// ErrRefused says that the other agent does not take this one for a member of its cluster.
// Nothing was done.
var ErrRefused = errors.New("the agent refuses requests of this one")

// Identity is what the agents of a cluster know each other by. The zero Identity says
// nothing, and a Server that has it asks for nothing.
type Identity struct {
	Cluster string // id
	// Secret is the cluster's, which only those know who can read the metadata store.
	Secret []byte
	// TLS, unless it is nil, is for both ends of a connection: its certificate, whom it trusts, and,
	// unless ServerName is empty, the name that every agent's certificate has.
	TLS *tls.Config
}

// LogValue keeps the secret out of logs.
func (id Identity) LogValue() slog.Value { return slog.StringValue("agents of " + id.Cluster) }

// String keeps the secret out of messages.
func (id Identity) String() string { return "agents of " + id.Cluster }

// The metadata that each call carries. Their names are part of the protocol.
const (
	headerCluster = "floe-cluster" // id of the caller's cluster
	headerToken   = "floe-token"   // HMAC-SHA-256 of tokenContext and the cluster's id, under its secret, in hex
	headerVersion = "floe-rpc"     // newest version of the protocol that the caller speaks

	tokenContext = "floe rpc token 1\x00"
	rpcVersion   = "2"
)

// token is what a caller shows for the secret: whoever sees it on a network without TLS does
// not learn the secret itself.
func (id Identity) token() string {
	h := hmac.New(sha256.New, id.Secret)
	h.Write([]byte(tokenContext))
	h.Write([]byte(id.Cluster))
	return hex.EncodeToString(h.Sum(nil))
}

// headers is what each call carries, made once.
type headers struct {
	values map[string]string
}

var _ credentials.PerRPCCredentials = headers{}

func (id Identity) headers() headers {
	values := map[string]string{headerVersion: rpcVersion}
	if id.Cluster != "" {
		values[headerCluster] = id.Cluster
	}
	if len(id.Secret) > 0 {
		values[headerToken] = id.token()
	}
	return headers{values}
}

// GetRequestMetadata implements credentials.PerRPCCredentials, as does the next one.
func (h headers) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return h.values, nil
}

// RequireTransportSecurity is false: without TLS the network is trusted to keep the token.
func (headers) RequireTransportSecurity() bool { return false }

func (id Identity) clientTransport() credentials.TransportCredentials {
	if id.TLS == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(id.TLS)
}

// Guard says whose calls a Server serves.
type Guard struct {
	Identity
	// Demand reports whether calls without a token are refused, as they are once no agent of a
	// release lives that sends none. nil: they are not. A wrong token is refused in any case.
	Demand func() bool
	// Refused hears of every call that was refused, and why: one of Refusals. nil: nobody does.
	Refused func(why string)
}

// Why calls are refused: they are of another cluster, show a wrong token, or none.
const (
	ofCluster, ofToken, ofNoToken = "cluster", "token", "no token"
)

// Refusals returns all reasons.
func Refusals() []string { return []string{ofCluster, ofToken, ofNoToken} }

// admit is asked about every call before anything of it is read.
func (g Guard) admit(token string) tap.ServerInHandle {
	refuse := func(why string, code codes.Code, text string) error {
		if g.Refused != nil {
			g.Refused(why)
		}
		return grpcstatus.Error(code, text)
	}
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		if theirs := first(info.Header, headerCluster); theirs != "" && g.Cluster != "" && theirs != g.Cluster {
			return ctx, refuse(ofCluster, codes.PermissionDenied, "this is an agent of cluster "+g.Cluster+", not of "+theirs)
		}
		shown := first(info.Header, headerToken)
		switch {
		case len(g.Secret) == 0:
		case shown == "" && (g.Demand == nil || !g.Demand()):
		case shown == "":
			return ctx, refuse(ofNoToken, codes.Unauthenticated, "the call carries no token: the agent that made it is of a release that the cluster's level leaves behind")
		case subtle.ConstantTimeCompare([]byte(shown), []byte(token)) != 1:
			return ctx, refuse(ofToken, codes.Unauthenticated, "the token is not this cluster's")
		}
		return ctx, nil
	}
}

func first(md metadata.MD, name string) string {
	if v := md.Get(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// spoken says what an error of gRPC means.
func spoken(err error) error {
	switch grpcstatus.Code(err) {
	case codes.Unimplemented:
		return fmt.Errorf("%w: %w", ErrNotSpoken, err)
	case codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return err
}
