"""What faults cost clients, measured with real keepalived and HAProxy in network namespaces."""
