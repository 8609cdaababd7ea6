"""Pictures over HTTP: `app` is the service, `admission` who may come in, and when."""
