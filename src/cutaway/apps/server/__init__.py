"""The page's server: what a browser asks about one loaded model, over one WebSocket."""
