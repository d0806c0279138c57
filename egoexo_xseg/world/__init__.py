"""The sample world: small ray-cast scenes seen by moving and static cameras."""
