"""Values for the chart that together make every manifest."""

from typing import Final

PLAIN: Final = "keys: {enabled: false}"
VALUES: Final = {
    "plain": PLAIN,
    "volume, ingress and hpa": """
        keys: {file: '{"schema_version": 1, "keys": []}'}
        image: {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
        imagePullSecrets: [{name: registry}]
        store: {size: 50Gi, storageClass: nfs, readOnly: true}
        settings: {SERVICE_PRECISION: int8, SERVICE_MAX_IMAGES: 8, SERVICE_PAGE: false}
        ingress: {enabled: true, className: nginx, tlsSecret: tls, annotations: {a: b}}
        autoscaling: {kind: hpa}
        networkPolicy: {enabled: true}
        serviceMonitor: {enabled: true, labels: {release: monitoring}}
        podLabels: {team: vision}
        podAnnotations: {note: x}
        tolerations: [{key: gpu, operator: Exists}]
        nodeSelector: {pool: inference}
        affinity: {nodeAffinity: {}}
        priorityClassName: high
        """,
    "object store, route and keda": """
        keys: {existingSecret: resident-keys}
        store: {url: "s3://models"}
        envFrom: [{secretRef: {name: object-store}}]
        env: [{name: AWS_ENDPOINT_URL, value: "http://storage:9000"}]
        serviceAccount: {annotations: {role: reader}}
        httpRoute: {enabled: true, parentRefs: [{name: public}], hostnames: [a.example.com]}
        autoscaling: {kind: keda}
        grpc: {enabled: true}
        service: {type: LoadBalancer, annotations: {a: b}}
        networkPolicy:
          enabled: true
          from: [{namespaceSelector: {matchLabels: {name: ingress}}}]
          metricsFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]
          egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{protocol: TCP, port: 9000}]}]
        """,
}
