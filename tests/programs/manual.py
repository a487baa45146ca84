"""The models of the manual's lessons, as it prints them."""

LINREG = """
@knet function linreg(x)
w = par(dims=(1,13), init=Gaussian(0,0.1))
b = par(dims=(1,1), init=Constant(0))
return w * x .+ b
end
"""

LINREG2 = """
@knet function linreg2(x; inputs=13, outputs=1)
w = par(dims=(outputs,inputs), init=Gaussian(0,0.1))
b = par(dims=(outputs,1), init=Constant(0))
return w * x .+ b
end
"""

SOFTMAX = """
@knet function linreg3(x; out=1)
w = par(dims=(out,0), init=Gaussian(0,0.1))
b = par(dims=(out,1), init=Constant(0))
return w * x .+ b
end

@knet function softmax(x; out=10)
z = linreg3(x; out=out)
return soft(z)
end
"""

LENET1 = """
@knet function lenet1(x) # dims=(28,28,1,N)
w1 = par(init=Xavier(), dims=(5,5,1,20))
c1 = conv(w1,x) # dims=(24,24,20,N)
b1 = par(init=Constant(0),dims=(1,1,20,1))
a1 = add(b1,c1)
r1 = relu(a1)
p1 = pool(r1; window=2) # dims=(12,12,20,N)

w2 = par(init=Xavier(), dims=(5,5,20,50))
c2 = conv(w2,p1) # dims=(8,8,50,N)
b2 = par(init=Constant(0),dims=(1,1,50,1))
a2 = add(b2,c2)
r2 = relu(a2)
p2 = pool(r2; window=2) # dims=(4,4,50,N)

w3 = par(init=Xavier(), dims=(500,800))
d3 = dot(w3,p2) # dims=(500,N)
b3 = par(init=Constant(0),dims=(500,1))
a3 = add(b3,d3)
r3 = relu(a3)

w4 = par(init=Xavier(), dims=(10,500))
d4 = dot(w4,r3) # dims=(10,N)
b4 = par(init=Constant(0),dims=(10,1))
a4 = add(b4,d4)
return soft(a4) # dims=(10,N)
end
"""

LENET_LAYERS = """
@knet function generic_layer(x; f1=:dot, f2=:relu, wdims=(), bdims=(), winit=Xavier(), binit=Constant(0))
w = par(init=winit, dims=wdims)
y = f1(w,x)
b = par(init=binit, dims=bdims)
z = add(b,y)
return f2(z)
end

@knet function conv_pool_layer(x; cwindow=0, cinput=0, coutput=0, pwindow=0)
y = generic_layer(x; f1=:conv, f2=:relu, wdims=(cwindow,cwindow,cinput,coutput), bdims=(1,1,coutput,1))
return pool(y; window=pwindow)
end

@knet function relu_layer(x; input=0, output=0)
return generic_layer(x; f1=:dot, f2=:relu, wdims=(output,input), bdims=(output,1))
end

@knet function softmax_layer(x; input=0, output=0)
return generic_layer(x; f1=:dot, f2=:soft, wdims=(output,input), bdims=(output,1))
end

@knet function lenet3(x)
a = conv_pool_layer(x; cwindow=5, cinput=1, coutput=20, pwindow=2)
b = conv_pool_layer(a; cwindow=5, cinput=20, coutput=50, pwindow=2)
c = relu_layer(b; input=800, output=500)
return softmax_layer(c; input=500, output=10)
end

@knet function lenet4(x; cwin1=5, cout1=20, pwin1=2, cwin2=5, cout2=50, pwin2=2, hidden=500, nclass=10)
a = conv_pool_layer(x; cwindow=cwin1, coutput=cout1, pwindow=pwin1)
b = conv_pool_layer(a; cwindow=cwin2, coutput=cout2, pwindow=pwin2)
c = relu_layer(b; output=hidden)
return softmax_layer(c; output=nclass)
end

@knet function drop(x; pdrop=0, o...)
if dropout
return x .* rnd(init=Bernoulli(1-pdrop, 1/(1-pdrop)))
else
return x
end
end

@knet function lenet5(x; pdrop=0.5, cwin1=5, cout1=20, pwin1=2, cwin2=5, cout2=50, pwin2=2, hidden=500, nclass=10)
a = conv_pool_layer(x; cwindow=cwin1, coutput=cout1, pwindow=pwin1)
b = conv_pool_layer(a; cwindow=cwin2, coutput=cout2, pwindow=pwin2)
bdrop = drop(b; pdrop=pdrop)
c = relu_layer(bdrop; output=hidden)
return softmax_layer(c; output=nclass)
end
"""

RNN1 = """
@knet function rnn1(x; hsize=100, xsize=50)
a = par(init=Xavier(), dims=(hsize, xsize))
b = par(init=Xavier(), dims=(hsize, hsize))
c = par(init=Constant(0), dims=(hsize, 1))
d = a * x .+ b * h .+ c
h = relu(d)
end
"""

CHARLM = """
@knet function charlm(x; embedding=0, hidden=0, pdrop=0, nchar=0)
a = wdot(x; out=embedding)
b = lstm(a; out=hidden)
c = drop(b; pdrop=pdrop)
return wbf(c; out=nchar, f=:soft)
end

@knet function lstmdrop(a; pdrop=0, hidden=0)
b = lstm(a; out=hidden)
return drop(b; pdrop=pdrop)
end

@knet function charlm2(x; nlayer=0, embedding=0, hidden=0, pdrop=0, nchar=0)
a = wdot(x; out=embedding)
c = repeat(a; frepeat=:lstmdrop, nrepeat=nlayer, hidden=hidden, pdrop=pdrop)
return wbf(c; out=nchar, f=:soft)
end
"""
